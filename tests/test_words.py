"""The words of the book: glossary, notation, one name for one thing, and a description of every picture."""

import importlib
import inspect
import io
import pkgutil
import re
from base64 import b64decode
from contextlib import suppress
from pathlib import Path

import notebooks
import numpy as np
import pytest
from notebooks import BOOK, ROOT
from PIL import Image

import himlib

CHAPTERS = {path.name: notebooks.read(path) for path in notebooks.notebooks()}
TEXTS = {path.name: path.read_text() for path in BOOK.glob("*.md")}
TEXTS |= {
    name: "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    for name, chapter in CHAPTERS.items()
}
GLOSSARY, NOTATION = TEXTS["glossary.md"], TEXTS["notation.md"]
LINK = re.compile(r"\{(eq|numref|ref|doc|prf:ref)\}`(?:[^`<]*<)?([^`>]+)>?`")
TERM = re.compile(r"\{term\}`(?:([^`<]*)<)?([^`>]+)>?`")
# One thing, one name: what is not written, what is written for it, and an example.
SYNONYMS = (
    (r"critics?\b(?!al)", "classifier", "critic"),
    (r"discriminators?", "classifier, unless a GAN is near", "discriminators"),
    (r"data[ -]?points?", "datum, data", "datapoint"),
    (r"mini[- ]batch\w*", "minibatch", "mini-batches"),
    (r"log odds", "log-odds", "log odds"),
    (r"log-ratios?", "log ratio", "log-ratio"),
    (r"likelihood free|simulation based|mean field", "with a hyphen", "likelihood free"),
    (r"(?:KL|Kullback.Leibler)[ -]distance|KL-divergence", "KL divergence", "Kullback-Leibler distance"),
    (r"(?:Kullback|Lotka|Jensen)–\w+", "with a hyphen", "Lotka–Volterra"),
    (r"re-parameteri[sz]\w*|reparametri[sz]\w*", "reparameterization", "re-parameterization"),
    (r"cross-entropy loss|logistic loss|log-loss", "log loss", "logistic loss"),
    (r"hinge-loss", "hinge loss", "hinge-loss"),
    (r"(?:surrogate|approximate) posteriors?", "variational family, q", "approximate posterior"),
    (r"global (?:latent )?variables?", "globals", "global variables"),
    (r"importance distributions?", "proposal", "importance distribution"),
    (
        r"(?:variational|evidence) lower-bound|variational lower bound",
        "evidence lower bound",
        "variational lower bound",
    ),
    (r"ground[- ]truth", "truth", "ground truth"),
)


def entries(glossary: str) -> dict[str, str]:
    """The terms of a glossary, and what it says of them."""
    body = glossary.split(":::{glossary}\n:sorted:\n")[1].split("\n:::")[0]
    return {term: " ".join(text.split()) for term, text in re.findall(r"^(\S.*)\n((?:  .+\n?)+)", body, re.M)}


def uses(text: str) -> list[str]:
    return [term.strip() for _, term in TERM.findall(text)]


def targets(texts: dict[str, str], chapters: dict) -> set[str]:
    """Everything a link may lead to: labels, names of figures, pages."""
    found = {Path(name).stem for name in texts}
    for text in texts.values():
        found |= set(re.findall(r"^ *:(?:label|name): (\S+)|\$\$ \(([\w-]+)\)|^\(([\w-]+)\)=", text, re.M))
    flat = {part for entry in found for part in ([entry] if isinstance(entry, str) else entry) if part}
    figures = (
        cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for chapter in chapters.values()
        for cell in chapter.cells
    )
    return flat | set(filter(None, figures))


def glossary_problems(glossary: str, texts: dict[str, str], known: set[str]) -> list[str]:
    terms = entries(glossary)
    names = {term.lower() for term in terms}
    found = [f"{term}: nowhere linked to a place" for term, text in terms.items() if not LINK.search(text)]
    found += [
        f"{term}: expected one to three sentences"
        for term, text in terms.items()
        if not 1 <= len(re.findall(r"[.?!](?= [A-Z{]|$)", LINK.sub("X", text))) <= 4
    ]
    found += [
        f"{where}: no term {term}"
        for where, text in texts.items()
        for term in uses(text)
        if term.lower() not in names
    ]
    used = {term.lower() for text in texts.values() for term in uses(text)}
    found += [f"{term}: in no chapter" for term in terms if term.lower() not in used]
    found += [
        f"{where}: {term} is linked {uses(text).count(term)} times"
        for where, text in texts.items()
        for term in sorted(set(uses(text)))
        if uses(text).count(term) > 1
    ]
    return found + [f"no place {place}" for _, place in LINK.findall(glossary) if place not in known]


def test_glossary():
    chapters = {name: TEXTS[name] for name in CHAPTERS}
    assert glossary_problems(GLOSSARY, chapters, targets(TEXTS, CHAPTERS)) == []
    terms = list(entries(GLOSSARY))
    assert terms == sorted(terms, key=str.lower) and 50 <= len(terms) <= 120


@pytest.mark.parametrize(
    ("entry", "text", "complaint"),
    [
        ("a\n  Is that. See {eq}`eq-1`.", "{term}`a`", None),
        ("a\n  Is that. See {eq}`eq-1`.", "{term}`an a <a>` and {term}`A`", None),
        ("a\n  Is that.", "{term}`a`", "nowhere linked"),
        ("a\n  Is {eq}`eq-2`.", "{term}`a`", "no place eq-2"),
        ("a\n  Is {eq}`eq-1`.", "a", "a: in no chapter"),
        ("a\n  Is {eq}`eq-1`.", "{term}`a` and {term}`b`", "page: no term b"),
        ("a\n  Is {eq}`eq-1`.", "{term}`a` and {term}`a`", "a is linked 2 times"),
        ("a\n  Is {eq}`eq-1`. " + "And this. " * 5, "{term}`a`", "one to three sentences"),
    ],
)
def test_glossary_check_notices(entry, text, complaint):
    glossary = f":::{{glossary}}\n:sorted:\n\n{entry}\n\n:::\n"
    found = glossary_problems(glossary, {"page": text}, {"eq-1"})
    assert found == [] if complaint is None else any(complaint in what for what in found), found


def names_of(package) -> set[str]:
    """Everything that a caller of a package writes: public names, parameters, attributes."""
    names = set()
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            value = getattr(module, public)
            members = {}
            if inspect.isclass(value):
                fields = dict.fromkeys(getattr(value, "__annotations__", ()))
                members = fields | {key: getattr(value, key) for key in vars(value) if key[0] != "_"}
            names |= {public, *members, *(f"{public}.{key}" for key in members)}
            for called in (value, *members.values()):
                with suppress(TypeError, ValueError):  # of what is not called, or has no signature
                    names |= set(inspect.signature(called).parameters)
    return names


def rows(table: str) -> list[list[str]]:
    lines = [
        line
        for line in table.splitlines()
        if line.startswith("|") and not line.startswith(("| ---", "| symbol"))
    ]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def notation_problems(table: str, names: set[str], known: set[str]) -> list[str]:
    found = []
    for symbol, code, meaning, first in rows(table):
        written = re.findall(r"`([^`]+)`", code)
        found += [f"{symbol}: himlib has no {name}" for name in written if name not in names]
        found += [
            f"{symbol}: himlib has no {name}"
            for name in re.findall(r"`([A-Z]\w+)`", meaning)
            if name not in names
        ]
        links = LINK.findall(first)
        if not links:
            found.append(f"{symbol or code}: without a first use")
        found += [f"{symbol}: no place {place}" for _, place in links if place not in known]
        if not (symbol or code):
            found.append("a row without symbol and name")
    return found


@pytest.fixture(scope="module")
def names():
    return names_of(himlib)


def test_notation(names):
    assert notation_problems(NOTATION, names, targets(TEXTS, CHAPTERS)) == []
    assert len(rows(NOTATION)) > 25
    symbols = [(symbol, code) for symbol, code, *_ in rows(NOTATION)]
    assert len(set(symbols)) == len(symbols)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("| $x_n$ | `x` | datum | {eq}`eq-02-joint` |", None),
        ("| $x_n$ | `xs` | datum | {eq}`eq-02-joint` |", "himlib has no xs"),
        ("| $q$ | `State.x` | q | {eq}`eq-02-joint` |", "himlib has no State.x"),
        ("| $q$ | `x` | `MeanFeldNormal` | {eq}`eq-02-joint` |", "himlib has no MeanFeldNormal"),
        ("| $x_n$ | `x` | datum | {eq}`eq-02-disjoint` |", "no place eq-02-disjoint"),
        ("| $x_n$ | `x` | datum | chapter 2 |", "without a first use"),
    ],
)
def test_notation_check_notices(names, row, complaint):
    found = notation_problems(row, names, {"eq-02-joint"})
    assert found == [] if complaint is None else any(complaint in what for what in found), found


def test_every_link_leads_somewhere():
    """What the build of the book would say, said in a second."""
    known = targets(TEXTS, CHAPTERS) | {f"course/{path.stem}" for path in (BOOK / "course").glob("*.md")}
    missing = [
        f"{name}: {place}"
        for name, text in TEXTS.items()
        for _, place in LINK.findall(text)
        if place not in known
    ]
    assert missing == []


def prose(text: str) -> str:
    """Text without code, formulas and roles."""
    text = re.sub(r"```(?!\{)[\s\S]*?```|`[^`]*`|\$\$[\s\S]*?\$\$|\$[^$]*\$", " ", text)
    return re.sub(r"```\{math\}[\s\S]*?```", " ", text)


def strangers(texts: dict[str, str]) -> list[str]:
    """Words that the book has another word for."""
    found = []
    for name, text in texts.items():
        for pattern, instead, _ in SYNONYMS:
            for match in re.finditer(rf"(?i)\b(?:{pattern})\b", text):
                around = text[max(match.start() - 300, 0) : match.end() + 300]
                if match[0].lower().startswith("discriminator") and re.search(r"GAN\b|adversarial", around):
                    continue
                found.append(f"{name}: {match[0]} (write: {instead})")
    return found


def test_one_thing_has_one_name():
    texts = {name: prose(text) for name, text in TEXTS.items()}
    for path in (ROOT / "himlib").rglob("*.py"):
        docstrings = re.findall(r'"""[\s\S]*?"""', path.read_text())
        texts[path.name] = prose("\n".join(docstrings))
    assert strangers(texts) == []


@pytest.mark.parametrize("example", [example for _, _, example in SYNONYMS])
def test_synonyms_are_noticed(example):
    assert len(strangers({"page": f"Here the {example} comes."})) == 1


def test_synonyms_spare_what_is_right():
    assert strangers({"page": "A GAN has a discriminator. The simulation-based way is critical."}) == []
    assert strangers({"page": prose("The name `data_point`, and $critic$.")}) == []


def pictures():
    for name, chapter in CHAPTERS.items():
        for cell in notebooks.code_cells(chapter):
            for output in cell.outputs:
                if data := output.get("data", {}).get("image/png"):
                    image = Image.open(io.BytesIO(b64decode(data)))
                    yield name, cell.metadata["mystnb"], image, len(data) * 3 // 4


PICTURES = list(pictures())


def picture_problems(mystnb, image, size) -> list[str]:
    """What keeps a picture from being seen in the dark, on a phone, or by ear."""
    alt, caption = mystnb["image"]["alt"], mystnb["figure"]["caption"]
    moving = getattr(image, "n_frames", 1) > 1
    (_, _, _, (opaque, _)) = image.convert("RGBA").getextrema()
    checks = {
        "alt text too short to describe anything": len(alt) < 40,
        "alt text that repeats the caption": alt in caption or caption in alt,
        "alt text with markup": re.search(r"[$`{}*]|</", alt),
        "a moving picture is called an animation, and nothing else is": moving != alt.startswith("Animation"),
        "a moving picture of more than 500 kB": moving and size > 500_000,
        "transparent, so that black letters vanish in the dark": opaque < 255,
        "narrower than a page": image.width < 600,
    }
    return [what for what, wrong in checks.items() if wrong]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_pictures(chapter):
    found = {
        mystnb["figure"]["name"]: wrong
        for name, mystnb, image, size in PICTURES
        if name == chapter and (wrong := picture_problems(mystnb, image, size))
    }
    assert found == {}


def test_names_of_figures_are_unique():
    figures = [mystnb["figure"]["name"] for _, mystnb, _, _ in PICTURES]
    assert len(set(figures)) == len(figures) > 40


@pytest.mark.parametrize(
    ("alt", "image", "size", "complaint"),
    [
        ("Two bell curves, of which the orange one is wider.", ("RGB", 640, "white"), 1, None),
        ("A plot.", ("RGB", 640, "white"), 1, "too short"),
        ("See how the orange curve is wider than the black one.", ("RGB", 640, "white"), 1, "repeats"),
        ("Two curves of $p$ and of $q$, one wider than the other.", ("RGB", 640, "white"), 1, "markup"),
        ("Animation of two bell curves that come together.", ("RGB", 640, "white"), 1, "called an animation"),
        (
            "Two bell curves, of which the orange one is wider.",
            ("RGBA", 640, (255, 255, 255, 0)),
            1,
            "transparent",
        ),
        ("Two bell curves, of which the orange one is wider.", ("RGB", 300, "white"), 1, "narrower"),
    ],
)
def test_picture_check_notices(alt, image, size, complaint):
    mode, width, color = image
    mystnb = {
        "image": {"alt": alt},
        "figure": {"caption": "See how the orange curve is wider than the black one."},
    }
    found = picture_problems(mystnb, Image.new(mode, (width, 100), color), size)
    assert found == [] if complaint is None else any(complaint in what for what in found), found


def test_moving_pictures_are_small():
    frames = [Image.fromarray(np.full((100, 640), shade, np.uint8)) for shade in (255, 250)]
    file = io.BytesIO()
    frames[0].save(file, format="png", save_all=True, append_images=frames[1:])
    mystnb = {
        "image": {"alt": "Animation of a page that grows a little darker."},
        "figure": {"caption": "See it."},
    }
    assert picture_problems(mystnb, Image.open(file), 10_000) == []
    assert picture_problems(mystnb, Image.open(file), 600_000) == ["a moving picture of more than 500 kB"]


def test_figures_on_pages_have_alt_text():
    places = {
        name: re.findall(r"\{(?:figure|image)\} (\S+)\n((?::\w+:.*\n)*)", text)
        for name, text in TEXTS.items()
    }
    bare = [
        f"{name}: {file}"
        for name, found in places.items()
        for file, options in found
        if ":alt:" not in options
    ]
    bare += [
        f"{name}: {place}" for name, text in TEXTS.items() for place in re.findall(r"!\[\]\(.*?\)", text)
    ]
    assert bare == []
