"""The settings of a continued run: which ones its start decides, and which ones flags may change."""

from ..checkpoint import is_published, load_config
from ..plumbing.errors import UserError
from ..plumbing.settings import option_of
from ..pretraining.recipes import LARGE, RECIPES
from ..pretraining.run import OBJECTIVES, settings_of

# For models from elsewhere (no pre-training run of ours), by kind: the objective, and a large preset.
OBJECTIVE_OF = {"encoder": "masked", "decoder": "causal", "encoder-decoder": "denoising"}
LARGE_MODEL = {"encoder": "bert-base", "decoder": "gpt2", "encoder-decoder": "bart-base"}
# A published model's weights are worth keeping: a low rate, as in fine-tuning (Devlin et al. 2019, A.3).
PUBLISHED = dict(batch_size=16, lr=5e-5, extend_vocabulary=0)


def continued_command(given: dict, overrides: dict) -> dict:
    """Return the settings that a continued run takes over from its start, overridden by the given flags.

    From a pre-training run: the objective and its options (such as the context), model, rate, new tokens.
    Other models get the objective of their kind, the recipe of the most similar preset and, if published or
    large, PUBLISHED. UserError for flags that the start has already decided.
    """
    if given.get("objective") == "distillation":
        raise UserError("--init: a student starts from its teacher's layers; give --teacher FOLDER instead")
    saved = settings_of(given["init"])
    if saved and saved["objective"] != "distillation":  # students go on without a teacher, by their kind
        options = OBJECTIVES[given.get("objective", saved["objective"])].objective.options(saved)
        kept = {"objective", "model", "lr", "extend_vocabulary"} | (options.keys() - {"seed"})
        taken = {name: value for name, value in saved.items() if name in kept}
    else:
        config = load_config(given["init"])
        is_small = config.d_model < LARGE and not is_published(given["init"])
        objective = given.get("objective") or OBJECTIVE_OF[config.kind]
        model = OBJECTIVES[objective].model if is_small else LARGE_MODEL[config.kind]
        context = min(RECIPES[model]["context"], config.max_positions)
        taken = dict(objective=objective, model=model, context=context, next_sentence=config.next_sentence)
        taken |= {} if is_small else PUBLISHED
    for name in (*overrides, *({"model", "tokenizer", "vocab_size"} & given.keys())):
        if name in overrides or given[name] != taken.get(name):  # a printed command may repeat the model
            raise UserError(f"{option_of(name)}: with --init, model and tokenizer are fixed; leave it out")
    return taken | given
