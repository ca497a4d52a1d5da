"""What is read inside the language model, against formulas written out on small tensors and on stock models."""

from dataclasses import dataclass, field

import pytest
import torch

from foveate import Card, Method, compress
from foveate.errors import InvalidValue, UnsupportedInput
from foveate.families import families
from foveate.pieces import (
    AttendedWords,
    DualText,
    FinalNorm,
    GlobalQuery,
    KeyLength,
    LayerKeys,
    Norm,
    Product,
    Read,
    Saliency,
    SalientHeads,
    Score,
    TextPeak,
    TextRows,
    Transition,
    Variation,
)
from foveate.pieces.seen import Attention, States
from foveate.plan import Layer, Step
from foveate.testing import tiny
from foveate.tokens import VisualTokens

N, L, R, H, KV, D = 6, 11, 3, 4, 2, 8
ALL = pytest.mark.parametrize("title", ["Qwen2.5-VL", "LLaVA-1.5"])


def seen(rotate=lambda rows: rows, raters=None, valid=None):
    """Six visual tokens in the middle, three words behind."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, H, L, D, generator=generator), torch.randn(2, KV, L, D, generator=generator)
    visual = (torch.arange(L) >= 2) & (torch.arange(L) < 2 + N)
    text = torch.arange(L - R, L).expand(2, -1)
    return Attention(
        q, k, D**-0.5, valid, visual.expand(2, -1), torch.full((2, 1), L - 1), text,
        torch.ones(2, R, dtype=torch.bool), raters or {}, rotate,
    )  # fmt: skip


def attention(a, logits=None):
    """Causal softmax of all rows and heads."""
    k = a.k.repeat_interleave(H // KV, 1)
    logits = a.q @ k.transpose(-1, -2) * a.scale if logits is None else logits
    return logits.masked_fill(torch.ones(L, L, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def test_words_that_the_image_is_more_like_than_the_average_word_rate():
    generator = torch.Generator().manual_seed(0)
    visual, text = torch.randn(2, 9, 5, generator=generator), torch.randn(2, 7, 5, generator=generator)
    got = AttendedWords()(visual, text)
    for b in range(2):
        share = torch.stack([(text[b] @ v).softmax(0) for v in visual[b]]).mean(0)
        assert torch.equal(got[b], share > share.mean())
    assert 0 < got.sum() < got.numel()


def test_one_word_and_equal_words_rate():
    assert AttendedWords()(torch.randn(1, 4, 5), torch.randn(1, 1, 5)).all()
    assert AttendedWords()(torch.randn(1, 4, 5), torch.zeros(1, 3, 5)).all()


def angles(rows):
    """RoPE of base 10 on (first half, second half) pairs."""
    theta = torch.arange(rows.shape[2])[:, None] * 10.0 ** (-torch.arange(D // 2) / (D // 2))
    a, b = rows.chunk(2, -1)
    return torch.cat([a * theta.cos() - b * theta.sin(), b * theta.cos() + a * theta.sin()], -1)


def test_salient_heads_are_freed_of_position():
    loud = torch.tensor([[True, False, True], [True, True, True]])
    words = AttendedWords()
    a = seen(angles, {words: loud})
    got = SalientHeads(words, share=0.5, least=0.3)(a)
    distance = torch.arange(L)[:, None] - torch.arange(L)
    decay = (distance[..., None] * 10.0 ** (-torch.arange(D // 2) / (D // 2))).cos().mean(-1).clamp(min=0.3)
    assert (decay == 0.3).any() and (decay > 0.5).any()
    paid = attention(a, a.q @ a.k.repeat_interleave(2, 1).transpose(-1, -2) * a.scale / decay)
    for b in range(2):
        rows = paid[b, :, L - R :][:, loud[b]].mean(1)
        most = rows[:, 2 : 2 + N].sum(1).topk(2).indices
        torch.testing.assert_close(got[b], rows[most].mean(0))


def test_the_peak_is_the_most_that_any_word_pays():
    a = seen()
    torch.testing.assert_close(TextPeak()(a), attention(a).mean(1)[:, L - R :].amax(1))
    some = seen()
    some.text_valid[:, 1] = False
    torch.testing.assert_close(TextPeak()(some), attention(a).mean(1)[:, [L - R, L - 1]].amax(1))


def test_the_mean_query_of_the_image_asks_its_keys():
    a = seen()
    got = GlobalQuery()(a)
    k = a.k.repeat_interleave(2, 1)[:, :, 2 : 2 + N]
    expected = (a.q[:, :, 2 : 2 + N].mean(2, keepdim=True) @ k.transpose(-1, -2) * a.scale).softmax(-1).mean(1)[:, 0]
    torch.testing.assert_close(got[:, 2 : 2 + N], expected)
    assert got[:, :2].abs().max() == 0 == got[:, 2 + N :].abs().max()


def test_keys_of_all_heads_in_a_row_and_their_length():
    a = seen()
    assert torch.equal(LayerKeys()(a)[1, 4], torch.cat([a.k[1, 0, 4], a.k[1, 1, 4]]))
    torch.testing.assert_close(KeyLength()(a), LayerKeys()(a).abs().sum(-1))


@pytest.mark.parametrize("reading", [SalientHeads(None), TextPeak()])
def test_without_words_nothing_can_rate(reading):
    a = seen()
    mute = Attention(a.q, a.k, a.scale, None, a.visual, a.last, a.text[:, :0], a.text_valid[:, :0], {}, a.rotate)
    with pytest.raises(UnsupportedInput, match="question after the image"):
        reading(mute)


def test_the_transition_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, L, 5, generator=generator) for _ in range(6)]
    states = States(*parts, visual=seen().visual)
    got = Transition()(states)
    for b, i in ((0, 3), (1, 7)):
        expected = 0.0
        for x, y in ((states.attention_in, states.attention_out), (states.ffn_in, states.ffn_out)):
            turn = (1 - torch.cosine_similarity(x[b], y[b], dim=-1)).exp()
            expected += turn[i] / turn[2 : 2 + N].sum() * y[b, i].norm() / x[b, i].norm()
        torch.testing.assert_close(got[b, i], expected)


def test_the_dual_score_is_below_a_threshold_where_both_parts_are():
    paid, peak = torch.tensor([[0.1, 0.2, 0.1]]), torch.tensor([[0.3, 0.05, 0.1]])
    tokens = VisualTokens.of(torch.zeros(1, 3, 2), signals={TextRows(): paid, TextPeak(): peak})
    for ratio in (0.5, 1.0, 2.0):
        score = DualText(ratio)(tokens)
        for tau in (0.1, 0.27, 0.4, 0.55):
            below = (paid / paid.sum() < tau) & (peak < tau / ratio)
            assert torch.equal(score < tau, below)


def test_a_product_multiplies():
    tokens = VisualTokens.of(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(Product()(tokens), Norm()(tokens) * Saliency()(tokens))


@pytest.mark.parametrize(
    "wrong",
    [lambda: SalientHeads(share=0), lambda: SalientHeads(least=2), lambda: DualText(0), lambda: Product(())],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InvalidValue):
        wrong()


@dataclass(frozen=True)
class At(Method):
    """One cut by a score."""

    score: Score = field(default_factory=Norm)
    layer: int = 3
    keep: float = 0.5
    positions: str | None = None

    card = Card("at", "for tests")

    def steps(self, model):
        yield Step(Layer(self.layer), self.keep, self.score, per="prompt")


class Spy(Score):
    """Ranks by norm, and remembers what readings gave at the image and at the words."""

    needs_text = True

    def __init__(self, *readings):
        self.reads, self.seen = readings, []

    def __call__(self, tokens):
        self.seen += [(tokens.signal(r), tokens.text(r)) for r in self.reads]
        return Norm()(tokens)

    def flops(self, of):
        return 0


@ALL
def test_on_a_model_they_are_what_its_hidden_states_say(title):
    family = {f.title: f for f in families().values()}[title]
    model = tiny(family)
    inputs = family.tiny_inputs(model, [[(5, 6)]], seed=3)
    states = model(**inputs, output_hidden_states=True).hidden_states
    spy = Spy(Variation(), FinalNorm())
    with compress(model, At(spy)) as run:
        model(**inputs)
    columns = [c for s in run.trace.cuts[0].spans for c in s.columns()]
    words = list(range(columns[-1] + 1, inputs["input_ids"].shape[1]))
    words = [w for w in words if w > max(i for i, t in enumerate(inputs["input_ids"][0].tolist()) if t == 10)]
    (change, _), (normed, said) = spy.seen
    torch.testing.assert_close(change[0], (states[3] - states[2]).norm(dim=-1)[0, columns], atol=1e-5, rtol=1e-4)
    expected = run.decoder.norm(states[3])[0]
    torch.testing.assert_close(normed[0], expected[columns], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(said[0], expected[words], atol=1e-5, rtol=1e-4)


@ALL
def test_a_reading_that_was_not_declared_is_not_there_at_the_words_either(title):
    class Sly(Spy):
        def __call__(self, tokens):
            return tokens.text(KeyLength())[:, :1].expand(-1, tokens.x.shape[1])

    family = {f.title: f for f in families().values()}[title]
    model = tiny(family)
    with compress(model, At(Sly(FinalNorm()))), pytest.raises(KeyError, match="not declared"):
        model(**family.tiny_inputs(model, [[(5, 6)]]))


def test_read_names_its_reading():
    assert str(Read(Variation())) == "Variation(since=None)"
