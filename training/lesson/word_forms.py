"""The words of the grammar, in both languages, with the forms that they have.

No word here begins with a vowel behind one that French would shorten ("l'", "d'", "qu'").
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """Forms, each (singular, plural), words parted by spaces; `gender` 0 is masculine, 1 feminine."""

    english: tuple[str, str]
    french: tuple[str, str]
    gender: int


@dataclass(frozen=True)
class Verb:
    """English: plain, third person, -ing. French: present and future, each (singular, plural).

    `particle` belongs to the English verb: "looks for". `reflexive` has French say "se".
    """

    english: tuple[str, str, str]
    present: tuple[str, str]
    future: tuple[str, str]
    particle: str = ""
    reflexive: bool = False


def _nouns(gender: int, text: str) -> list[Noun]:
    """`singular/plural = singulier/pluriel`, one a line; without a plural it is the singular and an s."""
    nouns = []
    for line in text.strip().splitlines():
        english, french = (
            side.strip().split("/") if "/" in side else (side.strip(), side.strip() + "s")
            for side in line.split("=")
        )
        nouns.append(Noun((english[0], english[1]), (french[0], french[1]), gender))
    return nouns


PEOPLE = _nouns(
    0,
    """
    boy = garçon
    king = roi
    baker = boulanger
    brother = frère
    police officer = policier
    """,
) + _nouns(
    1,
    """
    girl = fille
    woman/women = femme
    queen = reine
    sister = sœur
    """,
)
ANIMALS = _nouns(
    0,
    """
    dog = chien
    cat = chat
    horse = cheval/chevaux
    wolf/wolves = loup
    pig = cochon
    rabbit = lapin
    """,
) + _nouns(
    1,
    """
    cow = vache
    mouse/mice = souris/souris
    goat = chèvre
    hen = poule
    ladybird = coccinelle
    """,
)
BEINGS = PEOPLE + ANIMALS
THINGS = _nouns(
    0,
    """
    book = livre
    cake = gâteau/gâteaux
    snowman/snowmen = bonhomme de neige/bonshommes de neige
    hat = chapeau/chapeaux
    bicycle = vélo
    boat = bateau/bateaux
    alarm clock = réveil
    sandcastle = château de sable/châteaux de sable
    """,
) + _nouns(
    1,
    """
    ball = balle
    flower = fleur
    car = voiture
    key = clé
    table = table
    potato/potatoes = pomme de terre/pommes de terre
    typewriter = machine à écrire/machines à écrire
    """,
)
PLACES = _nouns(
    0,
    """
    garden = jardin
    bridge = pont
    forest = bois/bois
    living room = salon
    """,
) + _nouns(
    1,
    """
    house = maison
    kitchen = cuisine
    street = rue
    beach/beaches = plage
    swimming pool = piscine
    railway station = gare
    """,
)


def _forms(text: str) -> dict[str, tuple[str, ...]]:
    """`word: masculine feminine masculines feminines`, one a line."""
    lines = (line.split(":") for line in text.strip().splitlines())
    return {english.strip(): tuple(french.split()) for english, french in lines}


BEFORE = _forms(
    """
    small: petit petite petits petites
    big: grand grande grands grandes
    old: vieux vieille vieux vieilles
    beautiful: beau belle beaux belles
    new: nouveau nouvelle nouveaux nouvelles
    young: jeune jeune jeunes jeunes
    """
)
BEHIND = _forms(
    """
    red: rouge rouge rouges rouges
    green: vert verte verts vertes
    black: noir noire noirs noires
    white: blanc blanche blancs blanches
    grey: gris grise gris grises
    blue: bleu bleue bleus bleues
    round: rond ronde ronds rondes
    dirty: sale sale sales sales
    """
)
OF_PEOPLE = _forms(
    """
    tired: fatigué fatiguée fatigués fatiguées
    sad: triste triste tristes tristes
    famous: célèbre célèbre célèbres célèbres
    polite: poli polie polis polies
    """
)
SINGULAR_ARTICLES = _forms(
    """
    the: le la
    a: un une
    this: ce cette
    my: mon ma
    every: chaque chaque
    """
)
PLURAL_ARTICLES = _forms(
    """
    the: les les
    these: ces ces
    my: mes mes
    two: deux deux
    three: trois trois
    """
)


def _verbs(text: str) -> list[Verb]:
    """`plain third ing [particle] = [se] present presents future futures`, one a line."""
    verbs = []
    for line in text.strip().splitlines():
        english, french = (side.split() for side in line.split("="))
        reflexive = french[0] == "se"
        one, many, one_day, many_one_day = french[reflexive:]
        particle = english[3] if len(english) > 3 else ""
        forms = (english[0], english[1], english[2])
        verbs.append(Verb(forms, (one, many), (one_day, many_one_day), particle, reflexive))
    return verbs


TRANSITIVE = _verbs(
    """
    see sees seeing = voit voient verra verront
    find finds finding = trouve trouvent trouvera trouveront
    follow follows following = suit suivent suivra suivront
    want wants wanting = veut veulent voudra voudront
    wash washes washing = lave lavent lavera laveront
    paint paints painting = peint peignent peindra peindront
    carry carries carrying = porte portent portera porteront
    watch watches watching = regarde regardent regardera regarderont
    draw draws drawing = dessine dessinent dessinera dessineront
    take takes taking = prend prennent prendra prendront
    push pushes pushing = pousse poussent poussera pousseront
    look looks looking for = cherche cherchent cherchera chercheront
    pick picks picking up = ramasse ramassent ramassera ramasseront
    """
)
INTRANSITIVE = _verbs(
    """
    sleep sleeps sleeping = dort dorment dormira dormiront
    sing sings singing = chante chantent chantera chanteront
    run runs running = court courent courra courront
    swim swims swimming = nage nagent nagera nageront
    laugh laughs laughing = rit rient rira riront
    dance dances dancing = danse dansent dansera danseront
    fall falls falling = tombe tombent tombera tomberont
    wake wakes waking up = se réveille réveillent réveillera réveilleront
    hurry hurries hurrying = se dépêche dépêchent dépêchera dépêcheront
    """
)
ADVERBS = {"often": "souvent", "always": "toujours", "sometimes": "parfois", "never": "jamais"}
PREPOSITIONS = {"in": "dans", "behind": "derrière", "with": "avec", "under": "sous", "near": "près"}
STATIVE = ("see", "want")  # which English does not say with -ing
PRONOUNS = {"him": "le", "her": "la", "them": "les"}
