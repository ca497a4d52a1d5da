"""compress and attach: a method at work in a stock transformers model, read in the order of the forward pass.

Images are learnt where they are encoded, the prompt at the model's door, and the plan is made at the language model's
door, the one point that `forward` and `generate` both pass after the images are known.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidValue, UnsupportedModel
from ..families import family_of
from ..families.base import Family, Kind
from ..method import Method, get_method
from ..pieces.base import Reading
from ..pieces.bias import Bias
from ..pieces.recall import Recall
from ..pieces.seen import Attention, States
from ..plan import Block, Layer, ModelShape, Step, check_steps
from .cut import Columns
from .deepstack import add_to_what_is_left
from .prompt import Encoded, Prompt
from .recall import recall_of
from .signals import VisionKey, vision_key, watched_layers
from .states import watch_states
from .tap import watch
from .tower import Passage, Tower
from .trace import Stopwatch, Trace
from .turn import Turn, next_turn

_open: weakref.WeakKeyDictionary[nn.Module, Run] = weakref.WeakKeyDictionary()


@contextmanager
def compress(
    model: nn.Module, method: str | Method, *, synchronize: bool = False, **overrides: object
) -> Iterator[Run]:
    """Compress the visual tokens of every prompt that `model` runs inside this context.

    `method` is a name from `foveate.all_methods()` or a Method; `overrides` replace its settings. `synchronize` waits
    for the GPU around each timed part of the trace. The model is restored on leaving, also after an exception.

    Raises InvalidValue for a wrong name or number, UnsupportedModel for a model without an adapter; both before
    anything is touched. During a run, UnsupportedInput for what cannot be compressed correctly.
    """
    run = attach(model, method, synchronize=synchronize, **overrides)
    try:
        yield run
    finally:
        run.detach()


def attach(model: nn.Module, method: str | Method, *, synchronize: bool = False, **overrides: object) -> Run:
    """Like `compress`, until `detach()` is called on what it returns; for servers."""
    config = getattr(model, "config", None)
    family = family_of(config)
    core = family.core(model)
    if core in _open:
        raise UnsupportedModel(
            f"this model is already compressed by {_open[core].method.card.name}; leave that context first, or compose "
            "methods with TwoStage"
        )
    return Run(model, get_method(method, **overrides), family, synchronize)


class _Thread(threading.local):
    """What one thread is in the middle of: a server may run prompts side by side on one model."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None
        self.answer = 0
        self.encoding = False
        self.vision: dict[VisionKey, list[Tensor]] = {}
        self.passage: Passage | None = None
        self.pending: dict[Kind, Encoded] = {}
        self.prompt: Prompt | None = None
        self.turn: Turn | None = None
        self.start = 0.0


class Run:
    """One open context. `trace` tells what happened in the latest prefill, `shape` what the model is like."""

    def __init__(self, model: nn.Module, method: Method, family: Family, synchronize: bool) -> None:
        self.method, self.family = method, family
        self.model, self.core = model, family.core(model)
        self.decoder = family.decoder(self.core)
        self.shape: ModelShape = family.shape(model.config)
        self.steps = _with_positions(check_steps(method.steps(self.shape), self.shape), method, self.shape)
        self.bias: Bias | None = method.chosen("bias")
        self.recall = recall_of(method, self.steps, self.shape)
        _refuse_windows(self.decoder.config)
        _refuse_bias(self.bias, self.decoder.config)
        _refuse_several_devices(self.decoder, self.steps, self.recall)
        self.trace = Trace()
        self.stopwatch = Stopwatch(synchronize)
        self.prompts: weakref.WeakKeyDictionary[Any, Prompt] = weakref.WeakKeyDictionary()
        self.thread = _Thread()
        self.tower = Tower(self)
        self._undo = ExitStack()
        with ExitStack() as undo:
            self._attach(undo)
            self._undo = undo.pop_all()

    def detach(self) -> None:
        """Restore the model; caches that were filled meanwhile can no longer be continued."""
        self._undo.close()
        for cache in list(self.prompts):
            del cache.get_seq_length
        self.prompts.clear()

    def _attach(self, undo: ExitStack) -> None:
        _open[self.core] = self
        undo.callback(_open.pop, self.core, None)
        for kind in self.family.image_token_ids(self.core.config):
            self._door(f"get_{kind}_features", kind, undo)
        if self.model is not self.core:
            self._hook(self.model, self._on_model, undo)
        self._hook(self.core, self._on_core, undo)
        self._hook(self.decoder, self._on_decoder, undo)
        undo.callback(self.decoder.register_forward_hook(self._after_decoder).remove)
        for i, layer in enumerate(self.decoder.layers):
            self._hook(layer, functools.partial(self._on_layer, i), undo)
        if self.family.deepstack:
            add_to_what_is_left(self.decoder, self._columns_left, undo)
        self.tower.attach(undo)
        self._watch(undo)

    def _hook(self, module: nn.Module, hook: Callable, undo: ExitStack) -> None:
        undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _door(self, name: str, kind: Kind, undo: ExitStack) -> None:
        """See the arguments of a feature method: `generate` calls it before, `forward` inside the model's own forward.

        The instance gets an attribute in front of the class's method; removing it brings the method back.
        """
        encode = getattr(self.core, name)
        signature = inspect.signature(encode)

        @functools.wraps(encode)
        def seen(*args: Any, **kwargs: Any) -> Any:
            if self.thread.encoding:  # Qwen3-VL encodes its videos through the door of images
                return encode(*args, **kwargs)
            self.thread.vision = {}
            device = _device(self.core)
            start = self.stopwatch.now(device)
            self.thread.encoding = True
            try:
                features = encode(*args, **kwargs)
            finally:
                self.thread.encoding = False
            arguments = dict(signature.bind_partial(*args, **kwargs).arguments)
            took = self.stopwatch.since(start, device)
            layouts = self.family.layouts(kind, self.core, arguments)
            self.thread.pending[kind] = Encoded(arguments, layouts, self.thread.vision, took, *self.tower.taken())
            return features

        setattr(self.core, name, seen)
        undo.callback(delattr, self.core, name)

    def _watch(self, undo: ExitStack) -> None:
        """Place readers where the steps' readings are taken, each module once."""
        attention: dict[nn.Module, list[VisionKey]] = {}
        outputs: dict[nn.Module, list[VisionKey]] = {}
        layers: dict[tuple[int, str], list[Reading]] = {}
        for step in self.steps:
            for reading in step.reads if not isinstance(step.at, Block) else ():
                if reading.place == "vision":
                    key = vision_key(step, reading)
                    if reading.sees == "output":
                        keys = outputs.setdefault(self.family.vision_block(self.core, key[0]), [])
                    else:
                        keys = attention.setdefault(self.family.vision_attention(self.core, key[0]), [])
                    keys += [key] if key not in keys else []
                elif reading.place == "previous":
                    for i in watched_layers(step, reading):
                        there = layers.setdefault((i, reading.sees), [])
                        there += [reading] if reading not in there else []
        for module, wanted in attention.items():
            watch(module, functools.partial(self._see_vision, wanted), undo)
        for block, wanted in outputs.items():
            undo.callback(block.register_forward_hook(functools.partial(self._see_block, wanted)).remove)
        for (i, sees), readings in layers.items():
            layer = self.decoder.layers[i]
            if sees == "states":
                watch_states(layer, self._in_prefill, functools.partial(self._see_states, i, readings), undo)
            else:
                watch(layer.self_attn, functools.partial(self._see_layer, i, readings), undo)
        if self.recall is not None:
            layer = self.decoder.layers[self.recall.layer(self.shape.layers) - 1]
            watch(layer.self_attn, self._see_turn, undo)

    # ── the forward pass, top to bottom ──────────────────────────────────────────────────────────────────────────

    def _see_vision(self, wanted: list[VisionKey], q: Tensor, k: Tensor, scale: float, kwargs: dict[str, Any]) -> None:
        store = self.thread.vision
        bounds = kwargs.get("cu_seq_lens_q")  # FlashAttention gets all images of a batch in one call
        lengths = [q.shape[2]] if bounds is None else bounds.diff().tolist()
        for part_q, part_k in zip(q.split(lengths, dim=2), k.split(lengths, dim=2), strict=True):
            for block, reading in wanted:
                value = reading(Attention(part_q, part_k, scale))
                store.setdefault((block, reading), []).append(value if value.ndim == 3 else value[..., None])

    def _see_block(self, wanted: list[VisionKey], module: nn.Module, args: tuple, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        states = states if states.ndim == 3 else states[None]
        for block, reading in wanted:
            self.thread.vision.setdefault((block, reading), []).append(reading(states))

    def _on_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        # whoever asks for the logits of the last n tokens has put n - 1 tokens of answer behind the prompt: the
        # candidates of assisted decoding, or a forced answer; they must not take part in the selection
        wanted = kwargs.get("logits_to_keep", 0)
        self.thread.answer = max(0, wanted - 1) if isinstance(wanted, int) else 0

    def _on_core(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.thread.ids = ids
        prompt = self._known(kwargs.get("past_key_values"))
        if prompt is not None and kwargs.get("position_ids") is None:
            # the model would count on from the length of layer 0's cache, which is shorter than the prompt was
            given = ids if ids is not None else kwargs["inputs_embeds"]
            kwargs["position_ids"] = prompt.positions_from(kwargs["past_key_values"], given.shape[1])
            return args, kwargs
        return None

    def _on_decoder(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        self.thread.prompt = self.thread.turn = None
        cache = kwargs.get("past_key_values")
        pending, self.thread.pending = self.thread.pending, {}
        if cache is not None and cache.get_seq_length() > 0:
            prompt = self._known(cache)
            self.thread.turn = next_turn(prompt, self, self.thread.ids, kwargs)
            return args, kwargs
        self.thread.start = self.stopwatch.now(kwargs["inputs_embeds"].device)
        self.trace = Trace(vision_ms=sum((e.took_ms for e in pending.values()), 0.0))
        self.trace.selection_ms = sum((e.selection_ms for e in pending.values()), 0.0)
        prompt = Prompt.begin(self, self.thread.ids, self.thread.answer, pending, kwargs)
        if prompt is None:
            return None
        self.thread.prompt = prompt
        if prompt.enter(kwargs):
            return args, kwargs
        return None

    def _on_layer(self, i: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if (prompt := self.thread.prompt) is not None:
            hidden = prompt.before_layer(i, module, hidden, kwargs)
        elif (turn := self.thread.turn) is not None:
            turn.before_layer(i, hidden, kwargs)
        else:
            return None
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def _columns_left(self) -> Columns | None:
        return None if self.thread.prompt is None else self.thread.prompt.columns

    def _in_prefill(self) -> bool:
        return self.thread.prompt is not None

    def _see_layer(
        self, i: int, readings: list[Reading], q: Tensor, k: Tensor, scale: float, kwargs: dict[str, Any]
    ) -> None:
        if (prompt := self.thread.prompt) is not None:
            prompt.read(i, readings, self.decoder.layers[i], q, k, scale)

    def _see_turn(self, q: Tensor, k: Tensor, scale: float, kwargs: dict[str, Any]) -> None:
        if (turn := self.thread.turn) is not None:
            turn.read(q, k, scale)

    def _see_states(self, i: int, readings: list[Reading], states: States) -> None:
        if (prompt := self.thread.prompt) is not None:
            prompt.passed(i, readings, states)

    def _after_decoder(self, module: nn.Module, args: tuple, output: Any) -> None:
        prompt, self.thread.prompt, self.thread.turn = self.thread.prompt, None, None
        if prompt is None:
            return
        cache = getattr(output, "past_key_values", None)
        prompt.finish(cache)
        if cache is not None:
            self._remember(cache, prompt)
        self.trace.prefill_ms = self.stopwatch.since(self.thread.start, _device(self.decoder))

    def _remember(self, cache: Any, prompt: Prompt) -> None:
        """Continue this prompt whenever its cache comes back.

        `generate` asks a cache for its length, without naming a layer, to know which tokens of the conversation are
        new: layer 0 may hold fewer than the prompt had. Masks ask with a layer's number and get the truth.
        """
        known, by_layer = weakref.ref(cache), type(cache).get_seq_length

        def get_seq_length(layer_idx: int | None = None) -> int:
            return prompt.full_length(known()) if layer_idx is None else by_layer(known(), layer_idx)

        self.prompts[cache] = prompt
        cache.get_seq_length = get_seq_length

    def _known(self, cache: Any) -> Prompt | None:
        return None if cache is None else self.prompts.get(cache)


def _with_positions(steps: tuple[Step, ...], method: Method, shape: ModelShape) -> tuple[Step, ...]:
    """The steps with the position policy that applies: the user's, else the published one where the model allows it."""
    from dataclasses import replace

    wanted = method.chosen("positions")
    if wanted not in (None, "keep", "compact"):
        raise InvalidValue(f"positions must be 'keep' or 'compact', got {wanted!r}")
    if wanted == "compact" and shape.mrope:
        raise InvalidValue(
            f"{shape.family} has M-RoPE: its survivors cannot be renumbered on one axis; use positions='keep'"
        )
    if shape.mrope:
        wanted = "keep"
    return tuple(replace(s, positions=wanted or s.positions) for s in steps)


def _refuse_windows(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise UnsupportedModel(
            f"this language model mixes {', '.join(sorted(kinds))}: a window counted in removed tokens would reach too "
            "far; only full attention is supported"
        )


def _refuse_bias(bias: Bias | None, config: Any) -> None:
    if bias is not None and config._attn_implementation not in ("sdpa", "eager"):
        raise UnsupportedModel(
            f"{type(bias).__name__} is added to attention logits, and {config._attn_implementation!r} takes none; "
            "load the model with attn_implementation='sdpa', or leave the bias out"
        )


def _refuse_several_devices(decoder: nn.Module, steps: tuple[Step, ...], recall: Recall | None) -> None:
    devices = {p.device for p in decoder.parameters()}
    if len(devices) > 1 and (recall is not None or any(isinstance(s.at, Layer) for s in steps)):
        names = ", ".join(sorted(map(str, devices)))
        raise UnsupportedModel(
            f"the language model lies on {names}, and cuts inside it need one device, as does a choice of keys while "
            "decoding; choose a method that cuts before the language model, set decode=None, or load it on one device"
        )


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
