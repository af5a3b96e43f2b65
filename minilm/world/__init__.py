"""The embedded world: a grammar of everyday stories with exact probabilities, labels and translations.

What other rooms use of it: `from minilm import world`, then `world.Story(seed=0, index=0)`,
`world.documents(100)`, `world.judge(text)`.
"""

from .few_shot import LABEL_WORDS, N_PAIRS, few_shot_documents, few_shot_pairs
from .portuguese import word_by_word
from .reports import Report
from .story import SINGULAR_OF, Story, documents, draw, judge, log_probability, parses, place_of, translate
from .tasks import (
    instructions,
    labelled,
    preference_prompts,
    preferences,
    questions,
    similarity,
    tagging,
    text_pairs,
    translation_pairs,
)
from .words import HAPPY_MOODS, HELD_OUT_THINGS, HELD_OUT_VERBS, MOODS, NAMES, PLACES, THINGS, VERBS
