"""A comparison's sentences say what the numbers say, and no more."""

from gmmxlnet.comparison.findings import describe


def said(results, beginning):
    found = [sentence for sentence in describe(results) if sentence.startswith(beginning)]
    assert len(found) <= 1
    return found[0] if found else ""


def test_what_does_not_beat_the_floor_is_named(make_result):
    results = [make_result("none", normal=(28.6, 0)), make_result("token", normal=(80, 80))]
    assert said(results, "Always").endswith("Not clearly above it: none (13).")
    assert "Every result's interval lies above it" in said(results[1:], "Always")


def test_different_dev_questions_are_called_so(make_result):
    results = [make_result("token", 13, floor=25.0), make_result("token", 14, floor=30.0)]
    assert "25.0 with seed 13, 30.0 with seed 14 EM: the floor. **The seeds drew different dev" in describe(results)[0]


def test_variants_stand_against_the_model_without_memory_of_their_seed(make_result):
    results = [
        *(make_result("none", seed, normal=(70, 25)) for seed in (13, 14)),
        make_result("token", 13, normal=(90, 90)),
        make_result("token", 14, normal=(70, 27)),
        make_result("mems", 13, normal=(60, 10)),
        make_result("mems", 15, normal=(99, 99)),  # no `none` of this seed
    ]
    sentence = said(results, "Against `none`")
    assert "on the questions of type `cross`" in sentence
    assert "better: token (13); no clear difference: token (14); worse: mems (13)." in sentence


def test_without_a_baseline_nothing_is_held_against_one(make_result):
    assert not said([make_result("token"), make_result("mems")], "Against")


def test_who_reads_the_memory(make_result):
    results = [make_result("none"), make_result("token", zeroed=(70, 5)), make_result("mems")]
    sentence = " ".join(describe(results))
    assert "so the memory is read by: token (13). No such loss" in sentence
    assert "no evidence that the memory is read, by: mems (13)." in sentence


def test_a_loss_at_the_floor_is_no_evidence(make_result):
    results = [make_result("none"), make_result("token", normal=(28.6, 0), zeroed=(0, 0)), make_result("mems")]
    sentence = " ".join(describe(results))
    assert "no evidence either way: token (13)." in sentence
    assert "the memory is read by" not in sentence


def test_collapse_and_starvation_are_named(make_result):
    fine = make_result("gmm-k4-write", shares=[0.3, 0.2, 0.3, 0.2])
    results = [fine, make_result("gmm-k2-read", shares=[0.62, 0.38]), make_result("gmm-k8-read", shares=[0.04, 0.3])]
    assert "gmm-k2-read (seed 13): 38% to 62%; gmm-k8-read (seed 13): 4% to 30%" in said(results, "Uneven")
    assert said([fine], "No expert has more than 60%")


def test_information_beyond_chance_is_told_from_chance(make_result):
    results = [make_result("gmm-k2-read", shares=[0.5, 0.5], p=p, seed=seed) for seed, p in ((13, 0.001), (14, 0.6))]
    sentence = said(results, "The routing carries information")
    assert "gmm-k2-read (seed 13), 0.200 bits" in sentence
    assert "seed 14" not in sentence
    assert said(results[1:], "No router carries")


def test_seeds_that_disagree_are_said_to(make_result):
    good, stuck = make_result("token", 13, normal=(95, 95), zeroed=(70, 0)), make_result("token", 14, normal=(71, 25))
    sentences = " ".join(describe([good, stuck]))
    assert (
        "Seeds disagree: token, cross EM 95.0 (93.0 to 96.0) with seed 13, 25.0 (23.0 to 26.0) with seed 14."
        in sentences
    )
    assert "Seeds disagree: token reads its memory with seed 13, not 14." in sentences


def test_seeds_that_agree_are_said_to(make_result):
    results = [make_result("token", seed, normal=(90 + seed % 3, 90)) for seed in (13, 14)]
    assert said(results, "No two seeds of a variant disagree")
    assert "seeds of a variant" not in " ".join(describe(results[:1]))


def test_unlike_threads_are_a_warning(make_result):
    results = [make_result("token", seed, threads=str(seed - 12), device="CPU (arm64)") for seed in (13, 14)]
    assert "with 1, 2 CPU threads each: **these differ**" in said(results, "Trained on")
    assert "differ" not in said(results[:1], "Trained on CPU (arm64), with 1 CPU thread each.")
