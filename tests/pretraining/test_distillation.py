"""DistilBERT's three losses against plain loops, the teacher's rest, and the student's first weights."""

import math
from copy import deepcopy
from dataclasses import asdict

import pytest
import small
import torch
from mistakes import assert_right

from minilm.plumbing.errors import UserError
from minilm.pretraining import distillation
from minilm.pretraining.next_sentence import SentencePairs
from minilm.training.loop import TrainingSettings, make_optimizer, train_step
from minilm.training.objective import IGNORED

WEIGHTS = dict(soft_weight=1.7, masked_weight=0.6, cosine_weight=3.1)


@pytest.fixture(params=[True, False], ids=["teacher of pairs", "teacher without segments"])
def teacher(request, bpe, encoder, shaken):
    """A teacher whose opinions are strong."""
    model = encoder(len(bpe.vocab), pairs=request.param, n_encoder_layer=4, head_bias=True)
    return shaken(model, 0.4, seed=5)


@pytest.fixture
def objective(teacher, tagged_corpus, bpe):
    return make(teacher, tagged_corpus, bpe)


@pytest.fixture
def student(teacher, shaken):
    """A student that has already moved away from the teacher's layers."""
    return shaken(distillation.initial_student(teacher), 0.1, seed=6)


def make(teacher, corpus, bpe, **changes):
    options = dict(temperature=3.0) | WEIGHTS | changes
    return distillation.Distillation(corpus, bpe, 61, 9, seed=3, teacher=teacher, **options)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_targets_equal_a_plain_loop(temperature):
    torch.manual_seed(0)
    B, P, V = 3, 4, 7
    logits, teacher_logits = 3 * torch.randn(B, P, V).double(), 3 * torch.randn(B, P, V).double()
    counted = torch.rand(B, P) < 0.6
    divergence = lambda t, s: t * (math.log(t) - math.log(s))
    swapped = lambda t, s: divergence(s, t)

    def nats(term=divergence, at=counted, theirs=temperature, ours=temperature):
        total = 0.0
        for b, p in at.nonzero().tolist():
            above = [math.exp(x / theirs) for x in teacher_logits[b, p].tolist()]
            below = [math.exp(x / ours) for x in logits[b, p].tolist()]
            total += sum(term(t / sum(above), s / sum(below)) for t, s in zip(above, below, strict=True))
        return total

    T2, n = temperature**2, int(counted.sum())
    mistakes = {
        "the factor T^2 is missing": nats(),
        "the factor is T, not T^2": temperature * nats(),
        "student and teacher are swapped: p before the logarithms is the teacher's": T2 * nats(swapped),
        "the student's logits are not divided by T": T2 * nats(ours=1),
        "the teacher's logits are not divided by T": T2 * nats(theirs=1),
        "no logits are divided by T": T2 * nats(theirs=1, ours=1),
        "no logits are divided by T, and the factor T^2 is missing": nats(theirs=1, ours=1),
        "places where `counted` is False are added too": T2 * nats(at=torch.ones_like(counted)),
        "it is the cross-entropy: subtract the teacher's entropy": T2 * nats(lambda t, s: -t * math.log(s)),
        "the sign is wrong": -T2 * nats(),
        "it is a mean over the counted places, not a sum": T2 * nats() / n,
        "it is a mean over the vocabulary, not a sum": T2 * nats() / V,
    }
    found = distillation.soft_target_loss(logits, teacher_logits, counted, temperature)
    assert_right(found, T2 * nats(), mistakes, what=f"T = {temperature}")


def test_soft_targets_give_the_gradient_of_the_papers_cross_entropy():
    torch.manual_seed(0)
    logits, teacher_logits = torch.randn(2, 3, 9).double().requires_grad_(), torch.randn(2, 3, 9).double()
    distillation.soft_target_loss(logits, teacher_logits, torch.ones(2, 3), 2.0).backward()
    found, logits.grad = logits.grad.clone(), None
    (-4 * ((teacher_logits / 2).softmax(-1) * (logits / 2).log_softmax(-1)).sum()).backward()
    torch.testing.assert_close(found, logits.grad)


def test_the_cosine_loss_equals_a_plain_loop():
    torch.manual_seed(0)
    B, T, D = 3, 5, 4
    hidden, teacher_hidden = torch.randn(B, T, D).double(), torch.randn(B, T, D).double()
    mask = (torch.arange(T) < torch.tensor([[5], [2], [3]])).long()
    expected = 0.0
    for b in range(B):
        for t in range(T):
            if mask[b, t]:
                x, y = hidden[b, t].tolist(), teacher_hidden[b, t].tolist()
                product = sum(i * j for i, j in zip(x, y, strict=True))
                lengths = math.sqrt(sum(i * i for i in x)) * math.sqrt(sum(j * j for j in y))
                expected += 1 - product / lengths
    found = distillation.cosine_loss(hidden, teacher_hidden, mask)
    assert found.item() == pytest.approx(expected), "1 - cosine of each real token, padding left out"


@pytest.mark.parametrize("split", ["train", "validation"])
def test_loss_and_metrics_equal_a_plain_loop(objective, student, split):
    student.double(), objective.teacher.double()
    batch = objective.batch(0, split)
    student.vocabulary.bias.data[small.commonest(batch["masked_labels"])] = 12.0
    ids, mask = batch["input_ids"], batch["attention_mask"]
    types = batch["token_type_ids"] if objective.teacher.config.n_segments else None
    ours, above = student(ids, mask).detach(), objective.teacher(ids, mask, types)
    vectors = student.hidden_states(ids, mask)[-1]
    above_vectors = objective.teacher.hidden_states(ids, mask, types)[-1]
    masked = soft = cosine = n = n_right = n_byte = n_token = 0
    for b in range(len(ids)):
        for t, label in zip(batch["masked_positions"][b], batch["masked_labels"][b].tolist(), strict=True):
            if label != IGNORED:
                masked -= ours[b, t].log_softmax(0)[label].item()
                q, p = (ours[b, t] / 3).log_softmax(0), (above[b, t] / 3).log_softmax(0)
                soft += 9 * (p.exp() * (p - q)).sum().item()
                n, n_right = n + 1, n_right + int(ours[b, t].argmax() == label)
                n_byte += len(objective.tokenizer.vocab[label])
        for t in range(int(mask[b].sum())):
            x, y = vectors[b, t], above_vectors[b, t]
            cosine += 1 - (x @ y / x.norm() / y.norm()).item()
            n_token += 1
    expected = dict(masked_loss=masked / n, soft_loss=soft / n, cosine_loss=cosine / n_token)
    expected["loss"] = 1.7 * soft / n + 0.6 * masked / n + 3.1 * cosine / n_token
    expected |= dict(masked_accuracy=n_right / n, bits_per_byte=masked / math.log(2) / n_byte)
    assert 0 < n_right < n, "the test needs tokens that are right, and others"
    loss, metrics = objective.loss(student, batch)
    assert metrics.keys() == expected.keys()
    hints = dict(cosine_loss="a mean over all real tokens", loss="each term times its weight")
    hints["soft_loss"] = "a mean over hidden tokens, of a teacher that reads its segments, if it has them"
    for name, value in expected.items():
        told = f"{name} {metrics[name].item():.4f}, not {value:.4f}"
        told += f": {hints.get(name, 'a mean over hidden tokens')}"
        assert metrics[name].item() == pytest.approx(value, rel=1e-6), told
    assert loss.item() == metrics["loss"].item()
    assert min(masked, soft, cosine) > 0, "the test needs all terms to be there"


def test_the_default_weights_and_temperature_are_distilberts(teacher, tagged_corpus, bpe):
    objective = distillation.Distillation(tagged_corpus, bpe, 61, 9, teacher=teacher)
    assert objective.weights == dict(soft=5, masked=2, cosine=1) and objective.temperature == 2
    assert objective.patience == 3, "looks without a lower loss: the figures of the README"


@pytest.mark.parametrize("term", WEIGHTS)
def test_each_term_alone_is_its_weighted_loss(objective, student, tagged_corpus, bpe, term, monkeypatch):
    off = dict.fromkeys(WEIGHTS, 0.0)
    alone = make(objective.teacher, tagged_corpus, bpe, **off | {term: WEIGHTS[term]})
    plain, asked, batch = objective.teacher.hidden_states, [], objective.batch(0, "train")
    expected = objective.loss(student, batch)[1][term.replace("weight", "loss")]
    monkeypatch.setattr(alone.teacher, "hidden_states", lambda *a: asked.append(1) or plain(*a))
    torch.testing.assert_close(alone.loss(student, batch)[0], WEIGHTS[term] * expected)
    assert len(asked) == (term != "masked_weight"), "the teacher is asked once a batch, and never for nothing"
    alone.loss(student, batch)[0].backward()
    assert student.tokens.weight.grad.abs().max() > 1e-4, f"{term} never moves anything"


def test_training_moves_the_student_and_never_the_teacher(objective, student):
    teacher = objective.teacher
    before, first = deepcopy(teacher.state_dict()), deepcopy(student.state_dict())
    plan = dict(lr=1e-2, warmup=1, schedule="constant", weight_decay=0.1)
    settings = TrainingSettings(steps=3, batch_size=9, accumulate=2, **plan)
    optimizer = make_optimizer(student.train(), settings.weight_decay)
    for step in range(3):
        train_step(student, objective, optimizer, settings, step)
    assert not teacher.training, "the teacher's dropout is on"
    still = all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    assert still, "the teacher must be frozen: requires_grad_(False)"
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the teacher has moved: is it shared?"
    assert all(not torch.equal(value, first[name]) for name, value in student.state_dict().items())


def test_the_teacher_rests_from_the_start(teacher, tagged_corpus, bpe, encoder):
    for module in teacher.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    objective = make(teacher.train(), tagged_corpus, bpe)
    batch = objective.batch(0, "train")
    for one, other in zip(objective.ask_teacher(batch), objective.ask_teacher(batch), strict=True):
        assert not one.requires_grad and torch.equal(one, other), "the teacher must be in eval mode"


def test_rows_are_true_pairs_where_the_teacher_knows_pairs(objective, bpe):
    sep = bpe.special_id("[SEP]")
    pairs = objective.teacher.config.n_segments > 0
    for split, documents in (("train", objective.corpus.train), ("validation", objective.corpus.validation)):
        rows = objective.rows(split, objective.generator(0, split), 40)
        assert len(rows["input_ids"]) == (40 if split == "train" else len(objective.texts[split]))
        for ids in rows["input_ids"].tolist():
            assert ids.count(sep) == (2 if pairs else 1)
            if pairs:
                a_and_b = bpe.decode(ids[1:]).split("[SEP]")[:2]
                assert any("".join(a_and_b).strip() in text for text in documents), "B does not follow A"


@pytest.mark.parametrize("n_layer, taken", [(None, [0, 2]), (1, [0]), (4, [0, 1, 2, 3])])
def test_the_students_first_weights_are_the_teachers(teacher, n_layer, taken):
    student = distillation.initial_student(teacher, n_layer)
    theirs = teacher.state_dict()
    assert len(student.encoder.blocks) == len(taken)
    for i, layer in enumerate(taken):
        for name, value in student.encoder.blocks[i].state_dict().items():
            expected = theirs[f"encoder.blocks.{layer}.{name}"]
            assert torch.equal(value, expected), f"block {i} is not layer {layer} of the teacher: {name}"
    others = {name: value for name, value in student.state_dict().items() if ".blocks." not in name}
    for name, value in others.items():
        assert torch.equal(value, theirs[name]), name
    owners = {value.data_ptr() for value in theirs.values()}
    assert all(p.data_ptr() not in owners for p in student.state_dict().values()), "shared, not copied"


def test_a_student_has_its_teachers_shape_but_for_depth_segments_and_pooler(teacher):
    config, expected = distillation.initial_student(teacher).config, asdict(teacher.config)
    changed = dict(n_encoder_layer=2, n_segments=0, pooler=False, next_sentence=False)
    assert asdict(config) == expected | changed


@pytest.mark.parametrize("n_teacher, n_student", [(1, 1), (5, 2)])
def test_half_of_the_layers_is_rounded_down_but_at_least_one(encoder, n_teacher, n_student):
    student = distillation.initial_student(encoder(40, n_encoder_layer=n_teacher))
    assert student.config.n_encoder_layer == n_student


def test_a_student_deeper_than_its_teacher_is_refused(teacher):
    with pytest.raises(UserError, match="--n-encoder-layer 5: the teacher has 4 layers"):
        distillation.initial_student(teacher, 5)
    with pytest.raises(UserError, match="n-encoder-layer 0"):
        distillation.initial_student(teacher, 0)


def test_a_teacher_that_is_no_encoder_is_refused(decoder, encoder, bpe):
    gpt, seq2seq = decoder(len(bpe.vocab)), encoder(len(bpe.vocab), n_decoder_layer=1)
    for model, kind in ((gpt, "decoder"), (seq2seq, "encoder-decoder")):
        told = f"--teacher: its kind is {kind}, expected an encoder .* --objective masked"
        with pytest.raises(UserError, match=told):
            distillation.initial_student(model)


def test_a_teacher_with_another_vocabulary_is_refused(teacher, tagged_corpus, bpe, byte_bpe):
    with pytest.raises(UserError, match=f"--teacher: model with {len(bpe.vocab)} tokens, tokenizer with 262"):
        make(teacher, tagged_corpus, byte_bpe)


@pytest.mark.parametrize(
    "changes, message",
    [(dict(temperature=t), f"--temperature {t}") for t in (0.0, -2.0, math.nan)]
    + [({f"{term}_weight": w}, f"--{term}-weight {w}") for term, w in (("soft", -1.0), ("cosine", math.nan))]
    + [({"masked_weight": -0.5}, "--masked-weight -0.5"), (dict.fromkeys(WEIGHTS, 0), "not all of them 0")],
)
def test_options_out_of_range_are_named(teacher, tagged_corpus, bpe, changes, message):
    make(teacher, tagged_corpus, bpe, temperature=0.1)
    with pytest.raises(UserError, match=message):
        make(teacher, tagged_corpus, bpe, **changes)


def test_training_rows_come_from_few_documents_and_validation_rows_from_all(teacher, tagged_corpus, bpe):
    few, same, every = (make(teacher, tagged_corpus, bpe, n_documents=n) for n in (7, 7, None))
    train = tagged_corpus.train
    assert few.corpus.train == same.corpus.train != train[:7], "the first ones are all from one file"
    assert len(few.corpus.train) == 7 and set(few.corpus.train) <= set(train) and len(train) == 60
    assert few.all_texts is tagged_corpus and every.corpus.train == train
    assert len(few.texts["train"]) < len(every.texts["train"])
    one, other = few.batch(0, "validation"), every.batch(0, "validation")
    assert all(torch.equal(one[name], other[name]) for name in one), "measured on other texts"


def test_hidden_tokens_follow_the_share_and_whole_words(teacher, tagged_corpus, bpe):
    made = make(teacher, tagged_corpus, bpe, mask_share=0.5, whole_word=True)
    assert (made.mask_share, made.whole_word) == (0.5, True)


def test_the_batches_are_those_of_the_figures_in_the_readmes(objective, as_in_readmes):
    expected = "b371b981" if objective.teacher.config.n_segments else "8faf601c"
    as_in_readmes(small.fingerprint_of_batches(objective), expected)


def test_a_teacher_of_one_segment_knows_pairs_too(encoder, tagged_corpus, bpe):
    for n_segments in (0, 1, 2):
        teacher = encoder(len(bpe.vocab), pairs=False, n_segments=n_segments)
        rows = make(teacher, tagged_corpus, bpe).texts["train"]
        assert isinstance(rows, SentencePairs) == (n_segments > 0)
