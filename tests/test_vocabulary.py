"""The written list of candidate cues, and what counts as the class itself."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from discovery import vocabulary as module
from discovery.backends.detector import Phrase
from discovery.errors import DataError
from discovery.schema import KINDS
from discovery.vocabulary import (
    Vocabulary,
    core_reasons,
    is_same,
    label_names,
    packaged_file,
    parse_vocabulary,
    read_vocabulary,
)


@pytest.fixture(autouse=True)
def fresh_cache():
    read_vocabulary.cache_clear()
    yield
    read_vocabulary.cache_clear()


def encoder(*alike):
    """Returns a fake text encoder: every phrase is orthogonal to all others but its given (phrase, other, cosine)."""
    axes: dict[str, int] = {}
    pairs = {phrase: (other, cosine) for phrase, other, cosine in alike}

    def axis(phrase):
        vector = np.zeros(1024, np.float32)
        vector[axes.setdefault(phrase, len(axes))] = 1
        return vector

    def embed(phrase):
        if phrase not in pairs:
            return axis(phrase)
        other, cosine = pairs[phrase]
        return cosine * axis(other) + np.sqrt(1 - cosine**2) * axis(phrase)

    return lambda phrases: np.stack([embed(phrase) for phrase in phrases])


def reasons(label, texts, *, families=None, parts=None, encode=None):
    vocabulary = Vocabulary((), families or {}, parts or {})
    phrases = [Phrase(text, "object") for text in texts]
    found = core_reasons(label, phrases, vocabulary, encode or encoder())
    return {phrase.text: why for phrase, why in found.items()}


# --- the list as it is shipped ---


def test_the_list_is_long_and_its_kinds_are_those_of_the_schema():
    phrases = read_vocabulary().phrases
    assert len(phrases) >= 450
    assert {phrase.kind for phrase in phrases} == {"object", "background", "texture", "text"} <= set(KINDS)


def test_every_phrase_is_short_lower_case_and_plainly_spaced():
    for phrase in read_vocabulary().phrases:
        assert phrase.text == " ".join(phrase.text.casefold().split())
        assert 1 <= len(phrase.text.split()) <= 3


def test_no_phrase_is_listed_twice_not_even_as_its_plural():
    texts = [phrase.text for phrase in read_vocabulary().phrases]
    assert len(set(texts)) == len(texts)
    plurals = {text + ending for text in texts for ending in ("s", "es")}
    assert not plurals & set(texts)


def test_parts_are_phrases_of_the_list_and_name_their_wholes_in_plain_words():
    vocabulary = read_vocabulary()
    texts = {phrase.text for phrase in vocabulary.phrases}
    for part, wholes in vocabulary.parts.items():
        assert part in texts, part
        assert wholes
        assert all(label_names(whole) == (whole,) for whole in wholes), part


def test_families_have_plain_names_each_once():
    for family, members in read_vocabulary().families.items():
        assert label_names(family) == (family,)
        assert len(set(members)) == len(members), family
        assert all(member == member.casefold() for member in members)


def test_nothing_that_is_computed_is_listed():
    texts = {phrase.text for phrase in read_vocabulary().phrases}
    assert not {text for text in texts if text.endswith((" border", " tint", " background"))} - {"plain background"}
    assert not texts & {"red", "dark image", "blurry image", "black and white"}


@pytest.mark.parametrize(
    ("label", "core", "cues"),
    [
        ("climbing", ["climber", "climbing rope", "person", "hand"], ["rock wall", "cliff", "crash helmet"]),
        ("diving", ["scuba diver", "snorkel"], ["underwater", "swimming pool", "diving board"]),
        ("fishing", ["fishing rod", "fisherman"], ["lake", "river", "water surface", "boat"]),
        ("racing", ["racing car", "wheel", "rider"], ["race track", "paved track", "asphalt road"]),
        ("throwing", ["ball", "soccer ball", "arm"], ["playing field", "baseball glove", "grandstand"]),
        ("pole_vaulting", ["pole", "ski pole"], ["sky", "stadium", "running track"]),
        ("n02165456_ladybug", ["insect"], ["leaf", "flower", "grass"]),
        ("Siberian husky", ["dog", "fur", "paw"], ["snow field", "leash", "snow"]),
        ("waterbird", ["bird", "beak"], ["water surface", "lake", "forest"]),
        ("mountain bike", ["bicycle", "wheel"], ["mountain", "dirt path", "person"]),
        ("blond_hair", ["long hair"], ["man", "woman", "makeup"]),
        ("nurse", ["nurse", "person"], ["man", "woman", "hospital room"]),
        ("boxing", ["person"], ["dog", "boxing ring", "tail"]),
    ],
)
def test_classes_lose_themselves_and_their_parts_and_keep_their_contexts(label, core, cues):
    vocabulary = read_vocabulary()
    texts = {phrase.text for phrase in core_reasons(label, vocabulary.phrases, vocabulary, encoder())}
    assert set(core) <= texts
    assert not set(cues) & texts
    assert {*core, *cues} <= {phrase.text for phrase in vocabulary.phrases}


# --- what is core ---


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("pole_vaulting", ("pole vaulting",)),
        ("n02165456_ladybug", ("ladybug",)),
        ("n02165456 ladybug", ("ladybug",)),
        ("001.Black_footed_Albatross", ("black footed albatross",)),
        ("PoleVaulting", ("pole vaulting",)),
        ("tench, Tinca tinca", ("tench", "tinca tinca")),
        ("hen-of-the-woods", ("hen of the woods",)),
        ("n9", ("n9",)),
        ("3", ("3",)),
        ("Straßenbahn", ("strassenbahn",)),
        ("冰", ("冰",)),
        ("---", ("---",)),
    ],
)
def test_a_label_is_read_as_plain_words(label, names):
    assert label_names(label) == names


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("climber", "climbing"),
        ("rock climbing", "climbing"),
        ("swimmer", "swimming"),
        ("racer", "racing"),
        ("cliffs", "cliff"),
        ("Cherries", "cherry"),
        ("bear", "polar bear"),
        ("fire truck", "truck"),
        ("climbing", "climbing in snow"),
    ],
)
def test_forms_and_kinds_of_a_word_are_the_same_thing(phrase, name):
    assert is_same(phrase, name)
    assert is_same(name, phrase)


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("race track", "racing"),
        ("swimming pool", "swimming"),
        ("snow", "snow leopard"),
        ("ham", "hammer"),
        ("corn", "corner"),
        ("tennis ball", "golf ball"),
        ("bus stop", "bus"),
        ("king", "kite"),
        ("grass", "glass"),
    ],
)
def test_contexts_and_look_alike_words_are_not_the_same_thing(phrase, name):
    assert not is_same(phrase, name)
    assert not is_same(name, phrase)


@pytest.mark.parametrize(("cosine", "left_out"), [(0.9, True), (0.8, False)])
def test_a_synonym_is_left_out_from_the_threshold_on(cosine, left_out):
    found = reasons("automobile", ["sedan", "road"], encode=encoder(("sedan", "automobile", cosine)))
    assert list(found) == (["sedan"] if left_out else [])
    assert all("0.90" in why for why in found.values())


def test_a_part_is_left_out_for_its_whole_for_a_synonym_of_it_and_for_a_kind_of_it():
    parts = {"wheel": ("car",)}
    assert reasons("car", ["wheel"], parts=parts) == {"wheel": "belongs to car"}
    assert reasons("sports car", ["wheel"], parts=parts)
    assert reasons("automobile", ["wheel"], parts=parts, encode=encoder(("car", "automobile", 0.9)))
    assert not reasons("car wash", ["wheel"], parts=parts)
    assert not reasons("boat", ["wheel"], parts=parts)


def test_a_kind_of_a_part_is_left_out_too():
    assert reasons("throwing", ["soccer ball", "ball gown"], parts={"ball": ("throwing",)}) == {
        "soccer ball": "belongs to throwing"
    }


def test_a_family_name_is_left_out_and_its_parts_reach_every_member():
    families = {"dog": ("retriever", "husky")}
    found = reasons("golden_retriever", ["dog", "paw", "husky"], families=families, parts={"paw": ("dog",)})
    assert found == {"dog": "a general name of the class", "paw": "belongs to dog"}


def test_any_of_several_names_of_a_class_counts():
    assert list(reasons("cab, hack, taxi", ["taxi", "road"])) == ["taxi"]


def test_a_class_that_shares_nothing_keeps_every_phrase():
    assert reasons("3", ["cliff", "river"], parts={"cliff": ("mountain",)}) == {}
    assert reasons("3", []) == {}


# --- where the files are ---


def test_the_vocabulary_is_found_in_a_checkout():
    assert packaged_file("vocabulary.toml") == Path(module.__file__).parents[1] / "data" / "vocabulary.toml"


def test_the_installed_package_comes_before_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocabulary.toml").write_text('[[group]]\nkind = "object"\nphrases = ["here"]\n')
    monkeypatch.setattr(module.importlib.resources, "files", lambda _: tmp_path)
    assert packaged_file("vocabulary.toml").parent == tmp_path / "data"
    assert read_vocabulary().phrases == (Phrase("here", "object"),)


def test_a_file_in_neither_place_is_one_clear_line():
    with pytest.raises(DataError, match=r"nothing\.toml is missing from .* install the program again"):
        packaged_file("nothing.toml")


@pytest.mark.parametrize("text", ["phrases = [", 'group = "x"', "[[group]]\nphrases = ['a']", "a = 1"])
def test_a_broken_vocabulary_is_one_clear_line(text, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocabulary.toml").write_text(text)
    monkeypatch.setattr(module.importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match="is not a vocabulary"):
        read_vocabulary()


def test_an_unknown_kind_is_refused():
    with pytest.raises(DataError, match="unknown kind 'smell'; choose from object"):
        parse_vocabulary(tomllib.loads('[[group]]\nkind = "smell"\nphrases = ["rose"]\n'))
