# ruff: noqa: RUF001 (letters of other alphabets look like Latin ones)
"""The same four sentences in fifteen languages, written for these tests, with answers as a person would mark them."""

import unicodedata

PARALLEL: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "English": [
        ("The bridge was built in 1932 by the engineer Anna Berg.", ("1932", "Anna Berg", "The bridge")),
        ("The old library stands near the river and has three floors.", ("near the river", "three", "old")),
        ("Yesterday the mayor announced that the new museum will open in May.", ("mayor", "in May", "museum")),
        ("The village grows rice and makes cheese.", ("rice", "cheese", "village")),
    ],
    "German": [
        ("Die Brücke wurde 1932 von der Ingenieurin Änne Böhm gebaut.", ("1932", "Änne Böhm", "Brücke")),
        ("Die alte Bücherei steht nahe am Fluß und hat drei Stockwerke.", ("am Fluß", "drei", "Bücherei")),
        ("Gestern kündigte der Bürgermeister an, dass das Museum im März öffnet.", ("Bürgermeister", "März", "Museum")),
        ("Im Dorf wächst Reis, und man macht Käse.", ("Reis", "Käse", "Dorf")),
    ],
    "Spanish": [
        ("El puente fue construido en 1932 por la ingeniera María Muñoz.", ("1932", "María Muñoz", "puente")),
        ("La vieja biblioteca está junto al río y tiene tres pisos.", ("junto al río", "tres", "biblioteca")),
        ("Ayer el alcalde anunció que el museo nuevo abrirá en mayo.", ("el alcalde", "mayo", "anunció")),
        ("En la aldea se cultiva arroz y se hace queso.", ("arroz", "queso", "aldea")),
    ],
    "Romanian": [
        ("Podul a fost construit în 1932 de inginera Ștefania Pârvu.", ("1932", "Ștefania Pârvu", "Podul")),
        ("Biblioteca veche stă lângă râu și are trei etaje.", ("lângă râu", "trei", "Biblioteca")),
        ("Ieri primărița a anunțat că muzeul nou se va deschide în mai.", ("primărița", "mai", "muzeul")),
        ("În sat se cultivă orez și se face brânză.", ("orez", "brânză", "sat")),
    ],
    "Turkish": [
        ("Köprü 1932 yılında mühendis Ayşe Güneş tarafından yapıldı.", ("1932", "Ayşe Güneş", "Köprü")),
        ("Eski kütüphane nehrin yanında durur ve üç katlıdır.", ("nehrin yanında", "üç", "kütüphane")),
        ("Dün başkan yeni müzenin mayıs ayında açılacağını duyurdu.", ("başkan", "mayıs", "Dün")),
        ("Köyde pirinç yetişir ve peynir yapılır.", ("pirinç", "peynir", "Köyde")),
    ],
    "Vietnamese": [
        ("Cây cầu được kỹ sư Nguyễn Thị Hằng xây năm 1932.", ("Nguyễn Thị Hằng", "1932", "Cây cầu")),
        ("Thư viện cũ đứng gần bờ sông và có ba tầng.", ("gần bờ sông", "ba tầng", "Thư viện cũ")),
        ("Hôm qua thị trưởng nói bảo tàng mới sẽ mở vào tháng năm.", ("thị trưởng", "tháng năm", "bảo tàng mới")),
        ("Trong làng người ta trồng lúa và làm phô mai.", ("lúa", "phô mai", "làng")),
    ],
    "Russian": [
        ("Мост построила в 1932 году инженер Анна Берг.", ("1932", "Анна Берг", "Мост")),
        ("Старая библиотека стоит у реки, в ней три этажа.", ("у реки", "три", "библиотека")),
        ("Вчера мэр объявил, что новый музей откроется в мае.", ("мэр", "в мае", "новый музей")),
        ("В деревне выращивают рис и делают сыр.", ("рис", "сыр", "деревне")),
    ],
    "Greek": [
        ("Τη γέφυρα έχτισε το 1932 η μηχανικός Άννα Βέργη.", ("1932", "Άννα Βέργη", "γέφυρα")),
        ("Η παλιά βιβλιοθήκη είναι κοντά στο ποτάμι και έχει τρεις ορόφους.", ("κοντά στο ποτάμι", "τρεις", "παλιά")),
        ("Χθες ο δήμαρχος είπε ότι το νέο μουσείο θα ανοίξει τον Μάιο.", ("ο δήμαρχος", "Μάιο", "μουσείο")),
        ("Στο χωριό καλλιεργούν ρύζι και φτιάχνουν τυρί.", ("ρύζι", "τυρί", "χωριό")),
    ],
    "Arabic": [
        ("بُنِيَ الجسرُ عام ١٩٣٢ على يد المهندسة آنا بيرغ.", ("١٩٣٢", "آنا بيرغ", "الجسرُ")),
        ("تقع المكتبةُ القديمة قرب النهرِ وفيها ثلاثة طوابق.", ("قرب النهرِ", "ثلاثة", "المكتبةُ")),
        ("أمسِ أعلن محمدٌ أن المتحف الجديد سيُفتح في شهر مايو.", ("محمدٌ", "مايو", "أمسِ")),
        ("يُزرع في القرية الأرزُّ ويُصنع الجبن.", ("الأرزُّ", "الجبن", "القرية")),
    ],
    "Hebrew": [
        ("הַגֶּשֶׁר נבנה בשנת 1932 על ידי המהנדסת אנה בֶּרְגּ.", ("1932", "אנה בֶּרְגּ", "הַגֶּשֶׁר")),
        ("הספרייה הישנה עומדת ליד הנהרָ ויש בה שלוש קומות.", ("ליד הנהרָ", "שלוש", "הספרייה")),
        ("אתמול הודיע ראש העיר שהמוזיאון החדש ייפתח בַּמַּאי.", ("ראש העיר", "בַּמַּאי", "אתמול")),
        ("בכפר מגדלים אורז ומכינים גבינהֿ.", ("אורז", "גבינהֿ", "בכפר")),
    ],
    "Hindi": [
        ("यह पुल 1932 में अभियंता सीता शर्मा ने बनाया था।", ("1932", "सीता शर्मा", "पुल")),
        ("पुराना पुस्तकालय नदी के पास है और उसमें दो मंज़िलें हैं।", ("नदी के पास", "दो", "पुस्तकालय")),
        ("कल महापौर ने कहा कि नया संग्रहालय मई में खुलेगा।", ("महापौर", "मई में", "नया संग्रहालय")),
        ("गाँव में धान उगाते हैं और घी बनाते हैं।", ("धान", "घी", "गाँव")),
    ],
    "Thai": [
        ("สะพานนี้สร้างในปี 1932 โดยวิศวกรชื่อสมศรี", ("1932", "สมศรี", "สะพานนี้")),
        ("ห้องสมุดเก่าอยู่ใกล้แม่น้ำและมีสี่ชั้น", ("ใกล้แม่น้ำ", "สี่", "ห้องสมุดเก่า")),
        ("เมื่อวานนายกประกาศว่าพิพิธภัณฑ์ใหม่จะเปิดเดือนพฤษภาคม", ("นายก", "เดือนพฤษภาคม", "เมื่อวาน")),
        ("ในหมู่บ้านปลูกข้าวและทำเนยแข็ง", ("ข้าว", "เนยแข็ง", "หมู่บ้าน")),
    ],
    "Chinese": [
        ("這座橋建於1932年，由林先生設計。", ("1932", "林先生", "橋")),
        ("舊圖書館在河邊，有三層樓。", ("河邊", "三層", "舊圖書館")),
        ("市長王女士昨天宣布新博物館將於五月開放。", ("王女士", "五月", "昨天")),
        ("村裡種稻米，也做乳酪。", ("稻米", "乳酪", "村裡")),
    ],
    "Japanese": [
        ("この橋は1932年に技師の田中さんが建てた。", ("1932年", "田中さん", "橋")),
        ("古い図書館は川のそばにあり、三階建てだ。", ("川のそば", "三階建て", "図書館")),
        ("昨日、市長は新しいミュージアムが五月に開くと言った。", ("市長", "五月", "ミュージアム")),
        ("村では米を育て、チーズを作る。", ("米", "チーズ", "村")),
    ],
    "Korean": [
        ("이 다리는 1932년에 기술자 김영희가 지었다.", ("1932년", "김영희", "다리")),
        ("오래된 도서관은 강가에 있고 세 층이다.", ("강가", "세 층", "도서관")),
        ("어제 시장은 새 박물관이 오월에 문을 연다고 알렸다.", ("시장", "오월", "새 박물관")),
        ("마을에서는 쌀을 기르고 치즈를 만든다.", ("쌀", "치즈", "마을")),
    ],
}  # fmt: skip


def decomposed(parallel: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    """The same texts with letters and accents apart (NFD), as files from macOS often have them."""
    nfd = [(unicodedata.normalize("NFD", text), answers) for text, answers in parallel]
    return [(text, tuple(unicodedata.normalize("NFD", answer) for answer in answers)) for text, answers in nfd]
