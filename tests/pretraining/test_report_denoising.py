"""Grades pretraining/report.py: BART's table."""

from minilm.pretraining import baselines, report
from minilm.pretraining.denoising import rebuilt_examples
from minilm.pretraining.noise import NOISES
from minilm.pretraining.report import HEADER
from minilm.training.loop import TrainingSettings
from minilm.training.objective import evaluate

SETTINGS = TrainingSettings(batch_size=3)


def test_closing_has_the_figures_of_results_json(denoising, denoiser):
    before = evaluate(denoiser, denoising, SETTINGS)
    after = {name: 0.77 * value for name, value in before.items()}
    rows, results, examples = report.denoising_closing(denoising, denoiser, before, after, SETTINGS)
    assert results["reconstruction_loss"] == after["loss"]
    assert results["copy_accuracy"] == after["copy_accuracy"]
    assert results["rebuilt_accuracy"] == after["rebuilt_accuracy"]
    train = denoising.texts["train"]
    assert results["unigram_loss"] == baselines.unigram_loss(denoising, train.ids, "labels", n_end=len(train))
    for noise in NOISES:
        alone = evaluate(denoiser, denoising.with_noise(noise), SETTINGS)["loss"]
        assert results[f"{noise}_loss"] == alone, "each noise by itself, on the validation part"
        assert (f"loss, {noise} alone", None, alone, results["unigram_loss"], "") in rows
    columns = {name: values for name, *values in rows}
    for name, key, trivial in (
        ("loss (nats per token)", "loss", results["unigram_loss"]),
        ("bits per byte", "bits_per_byte", None),
        ("kept tokens copied", "copy_accuracy", baselines.standing_share(denoising)),
        ("lost tokens rebuilt", "rebuilt_accuracy", baselines.commonest_share(denoising)),
    ):
        assert columns[name][:3] == [before[key], after[key], trivial], name
    assert all(len(row) == len(HEADER) for row in rows)
    assert examples[-11:] == rebuilt_examples(denoising, denoiser)
    assert denoising.noises == ("infilling", "permutation"), "the run's own noise is changed"
