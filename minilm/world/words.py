"""The words of the embedded world, in English and in Brazilian Portuguese.

Every topic word belongs to exactly one place: eight things and three verbs each, as many as a small model
learns in a minute. The grammars that put the words together are in `world_stories.py` and
`world_reports.py`; the rules of Portuguese agreement are in `world_portuguese.py`. Tables, nothing else.
"""

from typing import NamedTuple


class Place(NamedTuple):
    """A place, and the words that lead to it."""

    english: str
    preposition: str  # English: at the market, in the kitchen, on the farm
    portuguese: str
    gender: str  # of the Portuguese noun: "m" or "f"


class Thing(NamedTuple):
    """A thing, and the one place where it is found."""

    english: str
    plural: str
    portuguese: str
    portuguese_plural: str
    gender: str
    place: str


class Verb(NamedTuple):
    """What is done with things, and the one place where it is done."""

    english: str  # past tense, the same for every person
    base: str
    participle: str
    portuguese: str  # third person singular, simple past
    portuguese_plural: str
    portuguese_participle: str  # masculine singular
    place: str


class Adjective(NamedTuple):
    """A quality that any thing may have."""

    english: str
    forms: tuple[str, str, str, str]  # Portuguese: masculine, feminine, masculine plural, feminine plural


GENDERS = {name: "f" for name in ("Ana", "Bia", "Carla", "Elisa", "Helena", "Laura", "Marina", "Sofia")} | {
    name: "m" for name in ("Bruno", "Caio", "Davi", "Hugo", "Lucas", "Pedro", "Rafael", "Tiago")
}
NAMES = tuple(GENDERS)

PLACE_WORDS = {
    place.english: place
    for place in (
        Place("market", "at", "mercado", "m"),
        Place("kitchen", "in", "cozinha", "f"),
        Place("garden", "in", "jardim", "m"),
        Place("beach", "at", "praia", "f"),
        Place("school", "at", "escola", "f"),
        Place("farm", "on", "fazenda", "f"),
    )
}
PLACES = tuple(PLACE_WORDS)

_THINGS = """
market   apple apples maçã maçãs f | orange oranges laranja laranjas f | banana bananas banana bananas f
market   pumpkin pumpkins abóbora abóboras f | melon melons melão melões m | lemon lemons limão limões m
market   tomato tomatoes tomate tomates m | pineapple pineapples abacaxi abacaxis m
kitchen  cup cups xícara xícaras f | spoon spoons colher colheres f | bowl bowls tigela tigelas f
kitchen  pan pans panela panelas f | plate plates prato pratos m | fork forks garfo garfos m
kitchen  glass glasses copo copos m | jug jugs jarro jarros m
garden   rose roses rosa rosas f | tulip tulips tulipa tulipas f | orchid orchids orquídea orquídeas f
garden   daisy daisies margarida margaridas f | lily lilies lírio lírios m | jasmine jasmines jasmim jasmins m
garden   sunflower sunflowers girassol girassóis m | carnation carnations cravo cravos m
beach    shell shells concha conchas f | towel towels toalha toalhas f | kite kites pipa pipas f
beach    ball balls bola bolas f | boat boats barco barcos m | bucket buckets balde baldes m
beach    hat hats chapéu chapéus m | crab crabs caranguejo caranguejos m
school   pen pens caneta canetas f | ruler rulers régua réguas f | eraser erasers borracha borrachas f
school   backpack backpacks mochila mochilas f | book books livro livros m | pencil pencils lápis lápis m
school   map maps mapa mapas m | notebook notebooks caderno cadernos m
farm     cow cows vaca vacas f | hen hens galinha galinhas f | goat goats cabra cabras f
farm     mule mules mula mulas f | horse horses cavalo cavalos m | pig pigs porco porcos m
farm     duck ducks pato patos m | rabbit rabbits coelho coelhos m
"""

_VERBS = """
market   bought buy bought comprou compraram comprado | sold sell sold vendeu venderam vendido
market   weighed weigh weighed pesou pesaram pesado
kitchen  washed wash washed lavou lavaram lavado | polished polish polished poliu poliram polido
kitchen  stored store stored guardou guardaram guardado
garden   planted plant planted plantou plantaram plantado | watered water watered regou regaram regado
garden   picked pick picked colheu colheram colhido
beach    found find found achou acharam achado | lost lose lost perdeu perderam perdido
beach    carried carry carried carregou carregaram carregado
school   used use used usou usaram usado | forgot forget forgotten esqueceu esqueceram esquecido
school   chose choose chosen escolheu escolheram escolhido
farm     fed feed fed alimentou alimentaram alimentado | followed follow followed seguiu seguiram seguido
farm     brushed brush brushed escovou escovaram escovado
"""


def _rows(table: str):
    """Yield (place, columns) for each entry of a table written as above."""
    for line in table.strip().splitlines():
        place, entries = line.split(maxsplit=1)
        for entry in entries.split("|"):
            yield place, entry.split()


THING_WORDS = {columns[0]: Thing(*columns, place) for place, columns in _rows(_THINGS)}
VERB_WORDS = {columns[0]: Verb(*columns, place) for place, columns in _rows(_VERBS)}
THINGS = {place: tuple(t.english for t in THING_WORDS.values() if t.place == place) for place in PLACES}
VERBS = {place: tuple(v.english for v in VERB_WORDS.values() if v.place == place) for place in PLACES}

# Three things and one verb of each place that no labelled example contains: see world_tasks.labelled.
HELD_OUT_THINGS = {
    "market": ("pumpkin", "lemon", "pineapple"),
    "kitchen": ("bowl", "fork", "jug"),
    "garden": ("orchid", "lily", "carnation"),
    "beach": ("kite", "bucket", "crab"),
    "school": ("eraser", "map", "notebook"),
    "farm": ("goat", "duck", "rabbit"),
}
HELD_OUT_VERBS = {
    "market": ("weighed",),
    "kitchen": ("stored",),
    "garden": ("picked",),
    "beach": ("carried",),
    "school": ("chose",),
    "farm": ("brushed",),
}


def _adjectives(table: str) -> dict[str, Adjective]:
    """Read lines of an English adjective and its four Portuguese forms."""
    rows = [line.split() for line in table.strip().splitlines()]
    return {english: Adjective(english, tuple(forms)) for english, *forms in rows}


ADJECTIVES = _adjectives("""
big      grande    grande    grandes    grandes
small    pequeno   pequena   pequenos   pequenas
old      velho     velha     velhos     velhas
yellow   amarelo   amarela   amarelos   amarelas
pretty   bonito    bonita    bonitos    bonitas
special  especial  especial  especiais  especiais
""")

HAPPY_MOODS = ("happy", "proud", "cheerful")
UNHAPPY_MOODS = ("sad", "angry", "worried", "upset")
MOODS = HAPPY_MOODS + UNHAPPY_MOODS
MOOD_WORDS = _adjectives("""
happy     feliz       feliz       felizes      felizes
proud     orgulhoso   orgulhosa   orgulhosos   orgulhosas
cheerful  alegre      alegre      alegres      alegres
sad       triste      triste      tristes      tristes
angry     zangado     zangada     zangados     zangadas
worried   preocupado  preocupada  preocupados  preocupadas
upset     chateado    chateada    chateados    chateadas
""")

TIMES = {
    "yesterday": "ontem",
    "this morning": "hoje de manhã",
    "after lunch": "depois do almoço",
    "on Sunday": "no domingo",
}

# Determiners: English -> Portuguese masculine and feminine, in the number of the English one.
SINGULAR = {"a": ("um", "uma"), "the": ("o", "a")}
PLURAL = {"some": ("alguns", "algumas"), "two": ("dois", "duas"), "the": ("os", "as")}

# Words of the reports only (world_reports.py).
QUANTITIES = {  # masculine, feminine
    "two": ("dois", "duas"),
    "five": ("cinco", "cinco"),
    "eight": ("oito", "oito"),
    "twelve": ("doze", "doze"),
    "twenty": ("vinte", "vinte"),
    "thirty": ("trinta", "trinta"),
    "two hundred": ("duzentos", "duzentas"),
}
DAYS = {  # with gender
    "Monday": ("segunda-feira", "f"),
    "Tuesday": ("terça-feira", "f"),
    "Wednesday": ("quarta-feira", "f"),
    "Thursday": ("quinta-feira", "f"),
    "Friday": ("sexta-feira", "f"),
    "Saturday": ("sábado", "m"),
}
CONDITIONS = _adjectives("""
irregular   irregular   irregular   irregulares   irregulares
unsuitable  inadequado  inadequada  inadequados   inadequadas
incomplete  incompleto  incompleta  incompletos   incompletas
acceptable  aceitável   aceitável   aceitáveis    aceitáveis
""")
