"""What a continued run takes over from its start, and what the command line may still say."""

from ..checkpoint import is_published, load_config
from ..plumbing.errors import UserError
from ..plumbing.settings import option_of
from ..pretraining.recipes import LARGE, RECIPES
from ..pretraining.run import OBJECTIVES, settings_of

# For a model that comes from no pre-training run of ours, by its kind.
OBJECTIVE_OF = {"encoder": "masked", "decoder": "causal", "encoder-decoder": "denoising"}
LARGE_MODEL = dict(masked="bert-base", causal="gpt2", denoising="bart-base", translation="bart-base")
# A published model's weights are worth keeping: a small rate, as in fine-tuning (Devlin et al. 2019, A.3).
PUBLISHED = dict(batch_size=16, lr=5e-5, extend_vocabulary=0)


def continued_command(given: dict, overrides: dict) -> dict:
    """Return what is given on the command line, laid over what a continued run takes over from its start.

    Of a pre-training run these are objective, model, context, rate and options of its settings. Another model
    gets the objective that fits its kind, the recipe of the preset most like it, and PUBLISHED if it is so or
    large. UserError for flags that the start has decided already.
    """
    if given.get("objective") == "distillation":
        raise UserError("--init: a student begins with its teacher's layers; give --teacher alone")
    saved = settings_of(given["init"])
    if saved and saved["objective"] != "distillation":  # a student goes on by itself, as its kind does
        options = OBJECTIVES[given.get("objective", saved["objective"])].objective.options(saved)
        kept = {"objective", "model", "lr"} | (options.keys() - {"batch_size", "seed"})
        taken = {name: value for name, value in saved.items() if name in kept}
    else:
        config = load_config(given["init"])
        is_small = config.d_model < LARGE and not is_published(given["init"])
        objective = given.get("objective") or OBJECTIVE_OF[config.kind]
        model = OBJECTIVES[objective].model if is_small else LARGE_MODEL[objective]
        context = min(RECIPES[model]["context"], config.max_positions)
        taken = dict(objective=objective, model=model, context=context, next_sentence=config.next_sentence)
        taken |= {} if is_small else PUBLISHED
    for name in (*overrides, *({"model", "tokenizer", "vocab_size"} & given.keys())):
        if name in overrides or given[name] != taken.get(name):  # a printed command names its model
            raise UserError(f"{option_of(name)}: with --init model and tokenizer are those of the run")
    return taken | given
