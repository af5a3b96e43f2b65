"""The embedded world: a grammar of everyday stories with exact probabilities, labels and translations.

What other rooms use: `from minilm import world`, then `world.Story(seed=0, index=0)`, `world.judge(text)`.
"""

from .few_shot import LABEL_WORDS, N_PAIRS, few_shot_documents, few_shot_pairs  # noqa: I001 - tasks in two
from .portuguese import word_by_word
from .reports import Report
from .story import Story, documents, draw, judge, log_probability, parses
from .tasks import SOURCES, labelled, preference_prompts, preferences, questions, similarity, tagging
from .tasks import text_pairs, translation_pairs
from .words import HAPPY_MOODS, HELD_OUT, HELD_OUT_THINGS, NAMES, PLACES, SINGULAR_OF, THINGS, VERBS, place_of
