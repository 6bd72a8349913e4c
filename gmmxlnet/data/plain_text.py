"""Decodes user-supplied files to text; other formats are detected, with advice on how to convert them."""

import codecs

from gmmxlnet.errors import ConfigError, DataError

# Leading bytes of other document formats, each with the command that converts it to plain text.
_PANDOC = "pandoc -t plain {name}"
_SIGNATURES: tuple[tuple[bytes, str, str | None], ...] = (
    (b"%PDF-", "a PDF", "pdftotext {name} -"),
    (b"PK\x03\x04", "a zip archive, as .docx, .odt and .epub files are", _PANDOC),
    (b"{\\rtf", "rich text (RTF)", _PANDOC),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.doc)", "catdoc {name}"),
    (b"\x1f\x8b", "compressed by gzip", "gunzip -c {name}"),
    (b"\x89PNG\r\n", "a PNG picture", None),
    (b"\xff\xd8\xff", "a JPEG picture", None),
    (b"\x7fELF", "a program", None),
)
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_MOST_CONTROLS = 0.02  # share of control characters above which bytes are considered binary
_LOOKED_AT = 2**16  # bytes (or characters) checked, from the start
_TEXT_CONTROLS = "\t\n\v\f\r\x1b"


def decode_text(data: bytes, encoding: str, name: str) -> str:
    """Decodes a file's bytes, without a byte order mark; `name` is used in messages.

    Raises:
        DataError: the bytes are a PDF or another document format, binary, invalid in the encoding, or blank.
        ConfigError: the text encoding is unknown.
    """
    _check_signature(data, name)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if not data.startswith(_BOMS) and _is_binary(data[:_LOOKED_AT].decode("latin-1")):
            raise _binary(name) from None
        raise DataError(
            f"document {name}: byte {error.start} is not {encoding}; name the encoding, such as --encoding "
            f"{'utf-16' if data.startswith(_BOMS[1:3]) else 'latin-1'}"
        ) from None
    except (LookupError, UnicodeError, ValueError, OverflowError, AssertionError):
        # unknown or bytes-only encoding, or a codec that fails without a position (punycode, idna, undefined)
        raise ConfigError(
            f"--encoding {encoding}: there is no such encoding of texts, or none that this document has; try utf-8, "
            "latin-1 or utf-16"
        ) from None
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    if _is_binary(text):
        raise _binary(name)
    check_whole_characters(text, f"document {name}")
    if not text.strip():
        raise DataError(f"document {name}: is empty; there is nothing to read")
    return text


def check_whole_characters(text: str, what: str) -> None:
    """Raises DataError if a text contains a lone surrogate, which cannot be encoded or tokenized."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        half = (
            f"byte 0x{code - 0xDC00:02x}, which is not UTF-8"
            if 0xDC80 <= code <= 0xDCFF  # Python's surrogateescape for undecodable bytes of a command line
            else f"a lone surrogate (\\u{code:04x}), half of a character"
        )
        raise DataError(f"{what}: character {error.start} is {half}; write the whole character or delete it") from None


def _check_signature(data: bytes, name: str) -> None:
    shown = "FILE" if name == "standard input" else name
    for start, kind, command in _SIGNATURES:
        if data.startswith(start):
            if command is None:
                raise DataError(f"document {name}: is {kind}, not text; give a file of text")
            raise DataError(
                f"document {name}: is {kind}, not plain text; make text of it: "
                f"{command.format(name=shown)} | gmmxlnet answer --document - …"
            )


def _binary(name: str) -> DataError:
    return DataError(
        f"document {name}: is binary data, not text, whatever the encoding; export it as text, or name a text file"
    )


def _is_binary(text: str) -> bool:
    """Whether a text contains NUL or too many control characters."""
    start = text[:_LOOKED_AT]
    num_controls = sum(c < " " and c not in _TEXT_CONTROLS for c in start)
    return "\0" in start or num_controls > max(1, _MOST_CONTROLS * len(start))
