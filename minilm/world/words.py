"""The words of the embedded world, in English and in Brazilian Portuguese: tables.

The world is *small and densely marked* on purpose. A small model learns six places, each with eight things
and three verbs, in a minute. As each of these words belongs to one place, every sentence reveals the place
without naming it. With more things, or verbs that fit anywhere, the same lessons take 3 to 5 times as long.
"""

from collections import namedtuple

# The columns of the tables. Gender: of the Portuguese noun, "m" or "f".
Place = namedtuple("Place", "english preposition portuguese gender")
Day = namedtuple("Day", "english portuguese gender")
Thing = namedtuple("Thing", "english plural portuguese portuguese_plural gender place")
# Simple past (in Portuguese third person, singular and plural), infinitive, participle (masculine singular).
Verb = namedtuple("Verb", "english base participle portuguese portuguese_plural portuguese_participle place")
# A thing with its determiner: "two old cups" is ("two", "old", "cup", True).
Phrase = namedtuple("Phrase", "determiner adjective thing plural")


def rows(table: str):
    """Yield each entry's columns ("|" ends an entry, "_" is a space); "place:" becomes the last column."""
    for line in table.strip().splitlines():
        place, _, entries = line.rpartition(":")
        for entry in entries.split("|"):
            yield [column.replace("_", " ") for column in (*entry.split(), *place.split())]


def forms(table: str) -> dict[str, list[str]]:
    """Return a table as {first column: the others}: an English word and its Portuguese forms."""
    return {english: portuguese for english, *portuguese in rows(table)}


GENDERS = {name: gender for *names, gender in rows("""
Ana Bia Carla Elisa Helena Laura Marina Sofia f | Bruno Caio Davi Hugo Lucas Pedro Rafael Tiago m
""") for name in names}  # fmt: skip
NAMES = tuple(GENDERS)

PLACE_WORDS = {row[0]: Place(*row) for row in rows("""
market at mercado m | kitchen in cozinha f | garden in jardim m
beach at praia f | school at escola f | farm at fazenda f
""")}  # fmt: skip
PLACES = tuple(PLACE_WORDS)

THING_WORDS = {row[0]: Thing(*row) for row in rows("""
market:  apple apples maçã maçãs f | orange oranges laranja laranjas f | banana bananas banana bananas f
market:  pumpkin pumpkins abóbora abóboras f | melon melons melão melões m | lemon lemons limão limões m
market:  tomato tomatoes tomate tomates m | pineapple pineapples abacaxi abacaxis m
kitchen: cup cups xícara xícaras f | spoon spoons colher colheres f | bowl bowls tigela tigelas f
kitchen: pan pans panela panelas f | plate plates prato pratos m | fork forks garfo garfos m
kitchen: glass glasses copo copos m | jug jugs jarro jarros m
garden:  rose roses rosa rosas f | tulip tulips tulipa tulipas f | orchid orchids orquídea orquídeas f
garden:  daisy daisies margarida margaridas f | lily lilies lírio lírios m | jasmine jasmines jasmim jasmins m
garden:  sunflower sunflowers girassol girassóis m | carnation carnations cravo cravos m
beach:   shell shells concha conchas f | towel towels toalha toalhas f | kite kites pipa pipas f
beach:   ball balls bola bolas f | boat boats barco barcos m | bucket buckets balde baldes m
beach:   hat hats chapéu chapéus m | crab crabs caranguejo caranguejos m
school:  pen pens caneta canetas f | ruler rulers régua réguas f | eraser erasers borracha borrachas f
school:  backpack backpacks mochila mochilas f | book books livro livros m | pencil pencils lápis lápis m
school:  map maps mapa mapas m | notebook notebooks caderno cadernos m
farm:    cow cows vaca vacas f | hen hens galinha galinhas f | goat goats cabra cabras f
farm:    mule mules mula mulas f | horse horses cavalo cavalos m | pig pigs porco porcos m
farm:    duck ducks pato patos m | rabbit rabbits coelho coelhos m
""")}  # fmt: skip

VERB_WORDS = {row[0]: Verb(*row) for row in rows("""
market:  bought buy bought comprou compraram comprado | sold sell sold vendeu venderam vendido
market:  weighed weigh weighed pesou pesaram pesado
kitchen: washed wash washed lavou lavaram lavado | polished polish polished poliu poliram polido
kitchen: stored store stored guardou guardaram guardado
garden:  planted plant planted plantou plantaram plantado | watered water watered regou regaram regado
garden:  picked pick picked colheu colheram colhido
beach:   found find found achou acharam achado | lost lose lost perdeu perderam perdido
beach:   carried carry carried carregou carregaram carregado
school:  used use used usou usaram usado | forgot forget forgotten esqueceu esqueceram esquecido
school:  chose choose chosen escolheu escolheram escolhido
farm:    fed feed fed alimentou alimentaram alimentado | followed follow followed seguiu seguiram seguido
farm:    brushed brush brushed escovou escovaram escovado
""")}  # fmt: skip

# Three things and one verb of each place, for tests: no labelled training text has these words (`tasks.py`).
HELD_OUT = {word for row in rows("""
pumpkin lemon pineapple weighed | bowl fork jug stored      | orchid lily carnation picked
kite bucket crab carried        | eraser map notebook chose | goat duck rabbit brushed
""") for word in row}  # fmt: skip

THINGS = {place: tuple(t for t in THING_WORDS if THING_WORDS[t].place == place) for place in PLACES}
VERBS = {place: tuple(v for v in VERB_WORDS if VERB_WORDS[v].place == place) for place in PLACES}
HELD_OUT_THINGS = {place: tuple(t for t in THINGS[place] if t in HELD_OUT) for place in PLACES}
# Every form of every thing, singular and plural, in both languages, with its English singular.
SINGULAR_OF = {form: t.english for t in THING_WORDS.values() for form in t[:4]}

# Masculine, feminine, masculine plural, feminine plural.
ADJECTIVES = forms("""
big     grande   grande   grandes   grandes   | small   pequeno  pequena  pequenos  pequenas
old     velho    velha    velhos    velhas    | yellow  amarelo  amarela  amarelos  amarelas
pretty  bonito   bonita   bonitos   bonitas   | special especial especial especiais especiais
""")
MOOD_WORDS = forms("""
happy    feliz      feliz      felizes     felizes     | proud   orgulhoso  orgulhosa  orgulhosos  orgulhosas
cheerful alegre     alegre     alegres     alegres
sad      triste     triste     tristes     tristes     | angry   zangado    zangada    zangados    zangadas
worried  preocupado preocupada preocupados preocupadas | upset   chateado   chateada   chateados   chateadas
""")
MOODS = tuple(MOOD_WORDS)
HAPPY_MOODS = MOODS[:3]

TIMES = dict(rows("""
yesterday ontem | this_morning hoje_de_manhã | after_lunch depois_do_almoço | on_Sunday no_domingo
"""))  # fmt: skip

# Determiners, masculine and feminine in the number of the English one. Reports have quantities.
SINGULAR = forms("a um uma | the o a")
PLURAL = forms("some alguns algumas | two dois duas | the os as")
QUANTITIES = forms("""
two dois duas | five cinco cinco | eight oito oito | twelve doze doze | twenty vinte vinte
thirty trinta trinta | two_hundred duzentos duzentas
""")

# Of the reports only: when (with the gender of the day), and what is wrong with a thing.
DAYS = {row[0]: Day(*row) for row in rows("""
Monday segunda-feira f | Tuesday terça-feira f | Wednesday quarta-feira f | Thursday quinta-feira f
Friday sexta-feira f | Saturday sábado m
""")}  # fmt: skip
CONDITIONS = forms("""
irregular irregular irregular irregulares irregulares
unsuitable inadequado inadequada inadequados inadequadas
incomplete incompleto incompleta incompletos incompletas
acceptable aceitável aceitável aceitáveis aceitáveis
""")


def place_of(word: str) -> str | None:
    """Return the place that a thing (in either number) belongs to, None for any other word."""
    return THING_WORDS[SINGULAR_OF[word]].place if word in SINGULAR_OF else None
