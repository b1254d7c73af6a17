"""Where candidate cues come from: the written list, narrowed by what photos show, and the user's own list."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chat_server import chat_server
from pretend_llm import PretendModel, data_of

from discovery.backends.detector import Phrase
from discovery.backends.phrase_list import ListedPhrase, read_phrases
from discovery.backends.proposer import PROPOSERS, FileProposer, VocabularyProposer, load_proposer
from discovery.config import ComputeConfig, DetectConfig, ProposeConfig
from discovery.errors import ConfigError
from discovery.schema import KINDS
from discovery.vocabulary import Vocabulary

PHOTO = np.zeros((4, 4, 3), np.uint8)
LISTED = ("cliff", "river", "forest", "climber", "rope")
TEXTS = tuple(Phrase(text, "background") for text in LISTED)
ANSWER = {"objects": [("rope", "object")], "backgrounds": [("cliff", "background")]}
OVERLAY, TINT = Phrase("watermark", "text"), Phrase("red tint", "colour")


def unrelated(phrases):
    """A fake text encoder to which no two phrases are alike."""
    return np.zeros((len(phrases), 4), np.float32)


def propose(scores, *, label="climbing", parts=None, **config):
    """Proposes with a fake tagger whose score table has a row per photo and a column per phrase of LISTED."""
    scores = np.array(scores, np.float32).reshape(-1, len(LISTED))
    asked = []

    def tag(images, texts):
        asked.append((len(images), tuple(texts)))
        return scores

    proposer = VocabularyProposer(
        ProposeConfig(**{"tags_per_image": 2, "per_class": 3} | config),
        Vocabulary((*TEXTS, OVERLAY), {}, parts or {}),
        computed=[TINT, OVERLAY],
        sees=lambda phrase: phrase.kind == "background",
        tag=tag,
        encode=unrelated,
    )
    attributes = proposer.propose(label, [PHOTO] * len(scores))
    assert asked == ([(len(scores), LISTED)] if len(scores) else [])
    return attributes


def shown(attributes):
    return [attribute.phrase for attribute in attributes if attribute.model == "conse"]


def write(tmp_path, name, text, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


# --- vocabulary ---


def test_the_most_prevalent_tags_come_first_and_ties_go_by_mean_score_then_by_phrase():
    rows = [[9, 8, 1, 0, 0], [9, 1, 8, 0, 0], [9, 0, 3, 0, 8.5]]
    assert shown(propose(rows, per_class=4)) == ["cliff", "forest", "river", "rope"]
    assert shown(propose([[1, 5, 0, 0, 0], [1, 0, 5, 0, 0]], tags_per_image=1)) == ["forest", "river"]


def test_prevalence_decides_not_the_height_of_a_score():
    rows = [[1, 0.5, 0, 0, 0], [1, 0.5, 0, 0, 0], [0, 0, 99, 0, 50]]
    assert shown(propose(rows, per_class=2)) == ["cliff", "river"]


def test_per_class_and_tags_per_image_bound_the_list():
    rows = [[5, 4, 3, 0, 2]]
    assert shown(propose(rows, per_class=1)) == ["cliff"]
    assert shown(propose(rows, per_class=9, tags_per_image=1)) == ["cliff"]
    assert len(shown(propose(rows, per_class=9, tags_per_image=99))) == 4


def test_the_class_itself_takes_no_place_among_the_tags():
    rows = [[1, 2, 3, 99, 0]]
    assert shown(propose(rows, tags_per_image=1)) == ["forest"]
    assert shown(propose(rows, tags_per_image=1, label="rowing")) == ["climber"]


def test_a_part_is_proposed_as_one_where_it_is_seen_after_the_cues_whose_place_it_does_not_take():
    parts = {"rope": ("climbing",), "river": ("climbing",)}
    found = propose([[5, -1, 4, 0, 9], [5, -1, 4, 0, 4.5]], parts=parts)
    assert shown(found) == ["cliff", "forest", "rope"]
    assert found[2].rationale == "belongs to climbing; among the 2 best tags of 2 of 2 photos"
    assert shown(propose([[5, -1, 4, 0, 3]], parts=parts)) == ["cliff", "forest"]


def test_at_most_a_few_parts_are_proposed(monkeypatch):
    monkeypatch.setattr("discovery.backends.proposer.MOST_PARTS", 1)
    parts = {"rope": ("climbing",), "river": ("climbing",)}
    assert shown(propose([[5, 9, 4, 0, 0], [5, 9, 4, 0, 9]], parts=parts)) == ["cliff", "forest", "river"]


def test_the_rationale_says_how_many_photos_show_it():
    attribute = propose([[9, 8, 0, 0, 0], [9, 0, 8, 0, 0]])[0]
    assert attribute.rationale == "among the 2 best tags of 2 of 2 photos"
    assert (attribute.source, attribute.kind, attribute.prompt_hash) == ("vocabulary", "background", None)


def test_what_is_computed_is_offered_to_every_class_once_and_after_what_is_shown():
    for rows in ([[9, 8, 0, 0, 0]], []):
        always = [a for a in propose(rows) if a.model is None]
        assert [(a.phrase, a.kind) for a in always] == [("watermark", "text"), ("red tint", "colour")]
        assert {a.rationale for a in always} == {"computed for every class"}


def test_what_is_computed_is_not_offered_to_the_class_that_it_is():
    assert [a.phrase for a in propose([], label="watermark")] == ["red tint"]


# --- the user's list ---


def test_a_txt_list_has_a_phrase_per_line_with_comments_and_kinds(tmp_path):
    path = write(
        tmp_path,
        "cues.txt",
        "# mine\n\nrock wall, background\nsnow\ttexture  # white\n  big   ball \nC#3\n",
    )
    assert read_phrases(path) == [
        ListedPhrase("rock wall", "background"),
        ListedPhrase("snow", "texture"),
        ListedPhrase("big ball"),
        ListedPhrase("C#3"),
    ]


def test_a_phrase_with_a_comma_takes_its_kind_after_a_tab(tmp_path):
    assert read_phrases(write(tmp_path, "cues.txt", "red, white flag\tobject")) == [ListedPhrase("red, white flag")]


def test_unicode_quotes_and_emoji_survive(tmp_path):
    texts = ['"quoted" cue', "l'été", "雪", "🧗 on rock", "naïve"]
    assert [p.text for p in read_phrases(write(tmp_path, "a.txt", "\r\n".join(texts)))] == texts
    rows = "".join('"' + text.replace('"', '""') + '",background\n' for text in texts)
    assert [p.text for p in read_phrases(write(tmp_path, "a.csv", "phrase,kind\n" + rows))] == texts


def test_a_byte_order_mark_is_no_part_of_the_first_phrase(tmp_path):
    assert read_phrases(write(tmp_path, "a.txt", "snow", "utf-8-sig")) == [ListedPhrase("snow")]
    assert read_phrases(write(tmp_path, "a.csv", "phrase\nsnow", "utf-8-sig")) == [ListedPhrase("snow")]


def test_duplicates_are_merged_in_their_first_spelling(tmp_path):
    path = write(tmp_path, "a.txt", "Snow\nsnow\nSNOW  \nsnow, texture\ncafe\u0301\ncaf\u00e9\n")
    assert read_phrases(path) == [
        ListedPhrase("Snow"),
        ListedPhrase("Snow", "texture"),
        ListedPhrase("caf\u00e9"),
    ]


def test_a_csv_list_restricts_a_phrase_to_a_class(tmp_path):
    path = write(tmp_path, "a.csv", "kind,phrase,label\nbackground,sky,\n,Pole,vaulting\nobject,pole,climbing\n")
    proposer = FileProposer(path)
    assert proposer.labels == {"vaulting", "climbing"}
    assert [(a.phrase, a.kind) for a in proposer.propose("vaulting", [])] == [
        ("sky", "background"),
        ("Pole", "object"),
    ]
    assert [a.phrase for a in proposer.propose("diving", [])] == ["sky"]


def test_a_toml_list_has_phrases_and_groups(tmp_path):
    text = 'phrases = ["ruler"]\n[[group]]\nkind = "texture"\nlabel = "mole"\nphrases = ["skin", "Ruler"]\n'
    assert read_phrases(write(tmp_path, "a.toml", text)) == [
        ListedPhrase("ruler"),
        ListedPhrase("skin", "texture", "mole"),
        ListedPhrase("ruler", "texture", "mole"),
    ]


def test_a_general_phrase_and_the_same_for_one_class_are_proposed_once(tmp_path):
    proposer = FileProposer(write(tmp_path, "a.csv", "phrase,label\nsky,\nsky,diving\n"))
    assert [a.phrase for a in proposer.propose("diving", [])] == ["sky"]


def test_the_users_phrases_are_not_filtered_and_say_who_listed_them(tmp_path):
    (attribute,) = FileProposer(write(tmp_path, "a.txt", "climber")).propose("climbing", [])
    assert (attribute.phrase, attribute.rationale, attribute.source) == (
        "climber",
        "listed by the user",
        "file",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "lists no phrase"),
        ("a.txt", "# nothing\n\n", "lists no phrase"),
        ("a.txt", "ok\nsnow, smell", "line 2: unknown kind 'smell'; choose from object"),
        ("a.txt", ", object", "line 1: the phrase is empty"),
        ("a.csv", "", "must have the columns phrase.*got none"),
        ("a.csv", "cue,kind\nsnow,object", "got cue,kind"),
        ("a.csv", "phrase,colour\nsnow,red", "got phrase,colour"),
        ("a.csv", "phrase,kind\nsnow,object,3", "line 2: more fields than columns"),
        ("a.csv", 'phrase\n"snow', "line 1: unexpected end of data"),
        ("a.csv", "phrase,kind\n,object", "line 2: the phrase is empty"),
        ("a.csv", "phrase,kind\n", "lists no phrase"),
        ("a.toml", "phrases = [", "is not TOML"),
        ("a.toml", 'phrases = "snow"', "top: expected phrases"),
        ("a.toml", "phrases = [1]", "top: expected phrases"),
        ("a.toml", '[[group]]\nphrase = ["snow"]', "group 1: expected phrases.*'phrase'"),
        ("a.toml", "group = 3", r"expected \[\[group\]\] tables, got group = 3"),
        ("a.toml", "", "lists no phrase"),
        ("a.pdf", "snow", "must end in .txt, .csv, .toml, got 'a.pdf'"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_clear_line(name, text, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        read_phrases(write(tmp_path, name, text))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_list_in_another_encoding_or_nowhere_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 3\)"):
        read_phrases(write(tmp_path, "a.txt", "café", "latin-1"))
    with pytest.raises(ConfigError, match=r"cannot read propose\.file = .*gone\.txt: No such file"):
        read_phrases(tmp_path / "gone.txt")
    (tmp_path / "dir.txt").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read propose\.file = .*dir\.txt"):
        read_phrases(tmp_path / "dir.txt")


# --- the dict ---


def test_an_unknown_proposer_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown proposer 'oracle'; choose from vocabulary, file"):
        load_proposer("oracle", ProposeConfig(), DetectConfig(), ComputeConfig())


def test_the_file_proposer_needs_a_file():
    with pytest.raises(ConfigError, match=r"needs propose\.file"):
        load_proposer("file", ProposeConfig(), DetectConfig(), ComputeConfig())


@pytest.fixture
def offline_models(monkeypatch):
    """Puts fakes where the loaders import the heavy backends."""

    class Conse:
        def __init__(self, config, compute):
            pass

        def sees(self, phrase):
            return phrase.kind in {"object", "background", "texture"}

        def tag(self, images, texts):
            return np.tile(np.arange(len(texts), dtype=np.float32), (len(images), 1))

    class Text:
        encode = staticmethod(unrelated)

    conse = pytest.importorskip("discovery.backends.conse", reason="torch is not installed")
    monkeypatch.setattr(conse, "ConseDetector", Conse)
    monkeypatch.setattr("discovery.backends.text.load_text", lambda name, compute: Text())


@pytest.mark.parametrize("name", PROPOSERS)
@pytest.mark.usefixtures("offline_models")
def test_every_proposer_keeps_the_contract(name, tmp_path):
    with chat_server() as server:
        server.otherwise = lambda body: PretendModel({data_of(body)["class"]: ANSWER})(body)
        asked = server.settings(tmp_path)
        config = ProposeConfig(proposer=name, file=str(write(tmp_path, "a.txt", "snow\nsky, background")), **asked)
        _keeps_the_contract(name, config)


def _keeps_the_contract(name, config):
    proposer = load_proposer(name, config, DetectConfig(), ComputeConfig())
    images = [PHOTO, PHOTO] if proposer.looks else []
    attributes = proposer.propose("climbing", images)
    assert attributes == proposer.propose("climbing", images)
    assert isinstance(proposer.labels, frozenset)
    keys = [(a.phrase, a.kind) for a in attributes]
    assert len(set(keys)) == len(keys) > 0
    assert all(a.phrase.strip() and a.kind in KINDS and a.rationale for a in attributes)
    assert {a.source for a in attributes} - {"vocabulary"} == {name} - {"vocabulary"}
    assert all(cost.calls for cost in proposer.costs().values())
    assert proposer.propose("diving", []) != []


@pytest.mark.usefixtures("offline_models")
def test_the_shipped_list_and_the_computed_appearances_share_no_phrase(tmp_path):
    attributes = load_proposer("vocabulary", ProposeConfig(), DetectConfig(), ComputeConfig()).propose("digit", [PHOTO])
    assert len({a.phrase for a in attributes}) == len(attributes)
    computed = {a.kind for a in attributes if a.model is None}
    assert {"text", "border", "colour", "lighting", "quality"} <= computed
    assert len([a for a in attributes if a.model == "conse"]) == ProposeConfig().tags_per_image


def test_importing_the_stage_imports_no_model():
    script = "import sys, discovery.propose; print(sorted({'torch', 'transformers', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.strip() == "[]"
