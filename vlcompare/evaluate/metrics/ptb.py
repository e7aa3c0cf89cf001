"""Caption tokens as the COCO caption metrics count them: Penn-Treebank tokens in lower case, without punctuation.

The reference is Stanford's PTBTokenizer 3.4.1, run with `-preserveLines -lowerCase`. The COCO evaluation then removes
the tokens in PUNCTUATION ("Microsoft COCO Captions", Chen et al. 2015, section 3.1). That program needs Java, so its
rules for English captions are written here as one table of patterns, and the tests compare with its recorded output.
Its peculiarities are kept, because they decide which tokens match: brackets become `-lrb-` and are not removed
(PUNCTUATION has them in capitals, the tokens are in lower case), `!!` and `?!` are single tokens and are not removed,
a comma before a digit belongs to the number (`man,30` gives `,30`), and line breaks in a caption count as spaces.
"""

from __future__ import annotations

import re

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_CHARACTERS = str.maketrans(
    {"‘": "'", "’": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "£": "#", "€": "$", "¤": "$", "\u00a0": " "}
    | {"¢": " cents ", "½": " ½ ", "¼": " ¼ ", "¾": " ¾ ", "⅓": " ⅓ ", "⅔": " ⅔ "}
)
_FRACTIONS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_ENTITIES = (("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&nbsp;", " "))

# Words that the treebank splits although nothing separates the parts: how many letters the first part has.
_SPLIT_WORDS = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3, "'tis": 2, "'twas": 2}

# Abbreviations that keep their full stop in any position, then those that keep it before a number only.
_ABBREVIATIONS = """
jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri mr mrs ms messrs dr drs prof rev gen
gov sen rep pres lt col capt maj sgt cpl pvt hon st ave blvd rd sq mt ft jr sr bros esq co cos corp inc ltd assn dept
dist etc vs al bldg calif fla tex mass mich minn penn wash conn ariz ill ind ky la okla ore tenn va wis
"""
_BEFORE_NUMBERS = ("no", "nos", "p", "pp", "fig", "figs", "art")
# A single letter keeps its full stop ("plan b. with"), but not before one of the words that begin sentences.
_STARTS = """
A An The This That These There Then They One Some Many He She It Her In At But So If When While What Other We You Our
Their After As Here However Now Since Such According Additionally Last More Once Yet
"""

_LETTER = r"[^\W\d_]"
_SHORT = r"(?:s|m|d|ll|ve|re)(?!\w)"  # what follows the apostrophe of a shortened word
_PIECE = r"(?:(?!n't(?!\w))[^\W_])+"  # letters and digits, up to a shortened "not"

_TOKEN = re.compile(
    rf"""
      (?P<tag></?[A-Za-z!?][^<>\n]*>)
    | (?P<url>(?:https?://|www\.)[^\s<>"()]*[^\s<>"().,;:!?'/])
    | (?P<mail>[\w.+-]*\w@[\w-]+(?:\.[\w-]+)*)
    | (?P<handle>[@\#]{_LETTER}\w*)
    | (?P<smiley>(?<!\w)[:;=]'?-?[()DPp|](?!\w))
    | (?P<dots>\.(?:\s?\.){{2,}}|…)
    | (?P<dashes>-{{2,}}|[–—])
    | (?P<signs>\*+|\#{{2,}}|@{{2,}}|_{{2,}})
    | (?P<shout>[!?]+)
    | (?P<quote>''|``|")
    | (?P<decade>'[2-9]0s\b|'\d\d(?!\S))
    | (?P<tis>'t(?:is|was)\b)
    | (?P<elision>'(?:em|til|cause)(?!\w)|'n'|'n(?![\w.])|\bol'(?!\w))
    | (?P<short>'{_SHORT}|n't(?!\w))
    | (?P<initials>(?:{_LETTER}\.){{2,}}(?:{_LETTER}(?!\w))?|ph\.d\.
        |\b(?-i:[A-Za-z])\.(?!\w|\s+(?-i:{"|".join(_STARTS.split())})\b))
    | (?P<halted>{_PIECE}(?:-{_PIECE})*\.(?=[,:;]))
    | (?P<fraction>(?<!\w)\d{{1,4}}[ -]\d{{1,4}}/\d{{1,4}}(?![\d/]))
    | (?P<abbreviation>\b(?:{"|".join(_ABBREVIATIONS.split())})\.(?!\w))
    | (?P<numbered>\b(?:{"|".join(_BEFORE_NUMBERS)})\.(?=\s?\d))
    | (?P<clock>\d+:\d+(?=[ap]m\b))
    | (?P<number>(?:(?<!\w)[+-])?(?:\d*(?:[.,:]\d+)+|\d+)(?![\w/-])|[+-]\d+(?![\w]))
    | (?P<capitals>(?-i:[A-Z]+(?:&[A-Z]+)+)(?!\w)|\bC(?:\+\+|\#))
    | (?P<apostrophe>(?:[dolDOL]'(?={_LETTER}{{2}})|[yY]'(?!\w|all\b)|(?:o'er|ne'er|c'mon|ma'am)\b)(?:{_PIECE})?)
    | (?P<yall>[yY]'(?=\w))
    | (?P<word>{_PIECE}(?:[-‐._/?!](?={_PIECE})(?!-\d+-){_PIECE})*)
    | (?P<other>\S)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_RENAMED = {"dots": "...", "dashes": "--"}


def tokens(caption: str) -> list[str]:
    """The tokens of one caption, in lower case, punctuation dropped."""
    return [token for token in _all_tokens(caption) if token not in PUNCTUATION]


def tokenise(caption: str) -> str:
    """The same, joined by single spaces: the form the metrics read."""
    return " ".join(tokens(caption))


def _all_tokens(caption: str) -> list[str]:
    text = " ".join(caption.translate(_CHARACTERS).split())
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    kept: list[str] = []
    for match in _TOKEN.finditer(text):
        kind, token = match.lastgroup or "other", match.group().lower()
        if kind in _RENAMED:
            kept.append(_RENAMED[kind])
        elif token in _SPLIT_WORDS:
            cut = _SPLIT_WORDS[token]
            kept += [token[:cut], token[cut:]]
        elif kind == "quote":
            kept.append("''")
        elif kind in ("smiley", "other"):
            kept.append("".join(_BRACKETS.get(character, character) for character in token))
        elif kind == "fraction":
            # a no-break space keeps "1 1/2" one token; metrics that split at any white space separate it again
            kept.append(token.replace(" ", "\u00a0"))
        else:
            kept.append(_FRACTIONS.get(token, token))
    return kept
