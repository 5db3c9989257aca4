"""Penn Treebank words for caption metrics, without Java.

Caption scores are defined on the words that Stanford's PTBTokenizer makes (CoreNLP 3.4.1 with
``-preserveLines -lowerCase``, as pycocoevalcap 1.2 calls it). The rules here were written from
that program's measured output, quirks included: an abbreviation keeps its full stop, ``cannot``
is two words, ``!!`` is a word while ``!`` is not, and a bracket stays as ``-lrb-`` because
pycocoevalcap looks for its upper-case form. Outside what captions hold (web and mail addresses,
markup, character entities, telephone numbers, emoticons) nothing is promised.
"""

from __future__ import annotations

import re

# Abbreviations whose full stop belongs to the word.
_ABBREVIATIONS = """
    a.k.a adj adm adv al ala alex apr ariz assn asst atty attys aug ave bancorp bhd bldg blvd brig
    bros calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec
    ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun
    kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt
    mtg natl neb nev nov oct okla penn pfc ph ph.d plc ppte pptes ppty pptys pres prof profs pte
    ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts
    sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
"""
_CAPITALISED_ABBREVIATIONS = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
_ABBREVIATIONS_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"

# The d' of d'art, unless it begins a contraction as in "o's".
_ELISION = r"(?:(?![dol]'(?i:[sdm]|re|ve|ll)\b)[dolDOL]'(?=[^\W_]))"


def _any_of(words: str) -> str:
    return "|".join(re.escape(word) for word in sorted(words.split(), key=len, reverse=True))


# At each position the first alternative that matches is the one that the reference lexer, which
# takes the longest match, would choose; the first is only the quick way through plain prose. What
# no alternative matches is punctuation, and is dropped as pycocoevalcap drops it.
_WORD = re.compile(
    rf"""(?=\S)(?:
      [A-Za-z]+ (?=,?[ ]|$)                                                   # dog
    | (?:\d{{1,4}}[- ])? \d{{1,4}}/\d{{1,4}} (?![/\w])                        # 1 1/2
    | [A-Za-z0-9]+ (?:-[A-Za-z]+){{0,2}} (?:/[A-Za-z0-9]+(?:-[A-Za-z]+){{0,2}}){{1,2}}  # and/or
    | [A-Za-z0-9][A-Za-z0-9.,]* (?:-[A-Za-z0-9]+)+                            # t-shirt; a,b-c
    | {_ELISION}? [^\W_]+ (?:[-_]{_ELISION}?[^\W_]+)+                         # garbage_bin
    | {_ELISION} [^\W_]+                                                      # o'clock
    | [A-Za-z](?:\.[A-Za-z])+\. (?![^\W\d_])                                  # u.s.
    | (?:(?i:[a-z]|{_any_of(_ABBREVIATIONS)})|{_any_of(_CAPITALISED_ABBREVIATIONS)})
      \. (?![^\W\d_])                                                         # mr.
    | (?i:{_any_of(_ABBREVIATIONS_BEFORE_NUMBERS)})\. (?=[ ]?\d)              # no. 5
    | [A-Z]+ (?:[+&][A-Z]+)+                                                  # AT&T
    | (?i: [a-z]*[a-mo-z](?=n't) | n't )                                      # do n't
    | (?i: more'n | 't(?:is|was) )\b | [yY]'(?=[a-zA-Z])                      # y' all
    | (?i: dunkin' | somethin' | ol' | [ldj]'(?!(?:[sdm]|re|ve|ll)\b)
         | '(?:em|till?|cause|[2-9]0s) | 'n(?:'|(?![a-z])) | c'(?:mon|est) | e'er | s'mores
         | ev'ry | li'l | nor'easter | nat'l | cap'n )
    | [A-HJ-XZn]'[^\W\d_]{{2,}}                                               # O'Neil
    | [^\W\d_]{{2,}} (?<=[aeiouyAEIOUY]) '(?!(?i:[sdm]|re|ve|ll)\b)[aeiouA-Z][^\W\d_]*  # ma'am
    | [^\W\d_][^\W_]* (?:[.!?][^\W\d_][^\W_]*)* (?:\.(?=[,;:]))?              # dog.cat; dogs.,
    | ' (?i:[sdm]|re|ve|ll) (?![A-Za-z])                                      # 's
    | \d+ [^\W\d_] [^\W_]*                                                    # 3rd
    | [-+]? (?:\d*(?:[.:,]\d+)+|\d+)                                          # 1,000
    | [@#][A-Za-z_]\w* | \*+ | @+ | \#+ | _+ | << | >> | [?!]{{2,}} | -{{5,}}
    | [^\w\s.,;:?!"'`\-\xab\xbb\u2013-\u201f\u2026\u2039\u203a\U00010000-\U0010ffff]  # symbol
    )""",
    re.VERBOSE,
)

_REWRITTEN = {
    "cannot": ["can", "not"],
    "gonna": ["gon", "na"],
    "wanna": ["wan", "na"],
    "gotta": ["got", "ta"],
    "gimme": ["gim", "me"],
    "lemme": ["lem", "me"],
    "more'n": ["more", "'n"],
    "'tis": ["'t", "is"],
    "'twas": ["'t", "was"],
    "(": ["-lrb-"],
    ")": ["-rrb-"],
    "[": ["-lsb-"],
    "]": ["-rsb-"],
    "{": ["-lcb-"],
    "}": ["-rcb-"],
    "½": ["1/2"],
    "¼": ["1/4"],
    "¾": ["3/4"],
    "£": ["#"],
    "€": ["$"],
    "¢": ["cents"],
}


def ptb_tokenize(text: str) -> list[str]:
    """Split a caption into lower-case Penn Treebank words without punctuation.

    Equals ``pycocoevalcap.tokenizer.PTBTokenizer`` on all 40,455 captions of Flickr8k.
    """
    words: list[str] = []
    for word in _WORD.findall(text.replace("\u2019", "'")):
        word = word.lower()
        words.extend(_REWRITTEN.get(word) or (word.replace(" ", "\xa0"),))
    return words
