"""One step of each network: it learns, its losses are those it was asked for, and frozen parts stay so."""

import copy

import pytest
import torch
from support.training import part, random_batch

from propainter import InputError, build_networks
from propainter.models.attention import PublishedWindowAttention
from propainter.models.generator import fuse
from propainter.training.checkpointing import apply_checkpointing
from propainter.training.deform_conv import use_sampled_deform_conv
from propainter.training.step import (
    Batch,
    CompletionStep,
    GeneratorStep,
    RaftStep,
    completed_flows,
    cut,
    given_flows,
    raft_flows,
    true_flows,
    weighted_sum,
)

EVERY = dict(hole=0.25, valid=0.25, smooth_first=0.25, smooth_second=0.25, census=0.01, edge=1.0, consistency=1.0)
BOTH = dict(hole=1.0, valid=1.0)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return build_networks(
        raft=dict(encoder_layers=(8, 8, 12, 16, 32), hidden_size=16, corr_layers=(16, 12), flow_layers=(8, 8)),
        flow_completion=dict(channels=4),
        generator=dict(channels=16, hidden=32, depth=2, heads=2, mlp_hidden=49),
    )


def completion_step(network, weights=EVERY) -> CompletionStep:
    return CompletionStep(network, weights, given_flows, true_flows)


def losses_of(step, batch: Batch) -> dict[str, torch.Tensor]:
    output = step(batch)
    return output[0] if isinstance(output, tuple) else output


def gradients(step, batch: Batch, weights) -> list[torch.Tensor]:
    step.zero_grad()
    weighted_sum(losses_of(step, batch), weights).backward()
    return [parameter.grad.clone() for parameter in step.parameters() if parameter.grad is not None]


def learned(step, weights, batch: Batch, steps: int, rate: float) -> tuple[float, float]:
    """The weighted loss before and after these steps of Adam."""
    optimizer = torch.optim.Adam([p for p in step.parameters() if p.requires_grad], rate)
    values = []
    for _ in range(steps):
        loss = weighted_sum(losses_of(step, batch), weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values[0], values[-1]


class TestBatch:
    def test_arrays_become_tensors_in_range(self):
        pictures = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 8, 8, 3)
        masks = torch.ones(1, 2, 8, 8, dtype=torch.uint8)
        arrays = {"frames": pictures, "truth": pictures, "masks": masks, "flow_masks": masks}
        batch = Batch.of(arrays, torch.device("cpu"))
        assert batch.frames.shape == (1, 2, 3, 8, 8)
        assert (batch.frames[:, 0].unique().tolist(), batch.frames[:, 1].unique().tolist()) == ([-1.0], [1.0])
        assert batch.masks.shape == (1, 2, 1, 8, 8)
        assert (batch.flows, batch.estimated, batch.local) == (None, None, 2)
        for source in (true_flows, given_flows):
            with pytest.raises(ValueError, match="flow"):
                source(batch)


class TestCompletion:
    @pytest.mark.slow
    def test_learns_a_clip(self, networks):
        step = completion_step(copy.deepcopy(networks.flow_completion), BOTH)
        before, after = learned(step, BOTH, random_batch(clips=1), 40, rate=3e-3)
        assert after < 0.75 * before

    def test_gives_the_losses_that_are_asked_for(self, networks):
        network = copy.deepcopy(networks.flow_completion)
        batch = random_batch()
        assert set(losses_of(completion_step(network), batch)) == set(EVERY)
        assert set(losses_of(completion_step(network, {**BOTH, "edge": 0}), batch)) == {"hole", "valid"}
        assert not any(parameter.requires_grad for parameter in network.edgeDetector.parameters())

    def test_does_not_see_the_hole(self, networks):
        batch = random_batch()
        changed = tuple(flow + 50 * batch.flow_masks[:, 1:] * batch.flow_masks[:, :-1] for flow in batch.estimated)
        step = completion_step(networks.flow_completion)
        plain, other = losses_of(step, batch), losses_of(step, batch._replace(estimated=changed))
        for name, value in plain.items():
            assert other[name].equal(value), name

    def test_a_batch_is_the_mean_of_its_parts(self, networks):
        step, batch = completion_step(networks.flow_completion), random_batch()
        whole, parts = losses_of(step, batch), [losses_of(step, part(batch, clip)) for clip in range(2)]
        for name, value in whole.items():
            assert value.item() == pytest.approx((parts[0][name] + parts[1][name]).item() / 2, rel=1e-4), name


class TestGenerator:
    @pytest.mark.slow
    def test_learns_a_clip(self, networks):
        step = GeneratorStep(copy.deepcopy(networks.generator), true_flows)
        before, after = learned(step, BOTH, random_batch(clips=1), 25, rate=3e-3)
        assert after < 0.8 * before

    def test_composites_are_the_truth_outside(self, networks):
        batch = random_batch()
        _, composite, truth = GeneratorStep(networks.generator, true_flows)(batch)
        assert composite.shape == batch.frames.shape
        outside = (1 - batch.masks).expand_as(truth).bool()
        assert composite[outside].equal(truth[outside])
        assert not composite[~outside].equal(truth[~outside])

    def test_local_frames_are_the_pipelines(self, networks):
        """Against `Generator.forward`, with and without the references' own frames."""
        batch = random_batch()
        networks.generator.eval()
        for references in (True, False):
            step = GeneratorStep(networks.generator, true_flows, decode_references=references)
            flows, frames, remaining = step.prepare(batch)
            expected = networks.generator(frames, flows, batch.masks, remaining, batch.local)
            got = step.predict(frames, flows, batch.masks, remaining, batch.local)
            assert got.shape[1] == (4 if references else 3)
            assert torch.allclose(got[:, :3], expected, atol=1e-5)

    def test_a_residual_one_begins_at_the_fused_frames(self):
        network = build_networks(
            generator=dict(channels=16, hidden=32, depth=1, heads=2, mlp_hidden=49, residual=True)
        ).generator
        torch.nn.init.zeros_(network.decoder[-1].weight)
        torch.nn.init.zeros_(network.decoder[-1].bias)
        batch = random_batch()
        for references in (True, False):
            step = GeneratorStep(network, true_flows, decode_references=references)
            flows, frames, remaining = step.prepare(batch)
            got = step.predict(frames, flows, batch.masks, remaining, 3)
            fused = fuse(frames[:, :3], flows, batch.masks[:, :3], remaining[:, :3])
            assert torch.allclose(got[:, :3], fused, atol=1e-6)
            assert torch.allclose(got[:, 3:], frames[:, 3 : got.shape[1]], atol=1e-6)

    def test_frozen_completion_gets_no_gradient(self, networks):
        flow_completion = copy.deepcopy(networks.flow_completion)
        step = GeneratorStep(copy.deepcopy(networks.generator), completed_flows(flow_completion, given_flows))
        assert gradients(step, random_batch(), BOTH)
        assert all(parameter.grad is None for parameter in flow_completion.parameters())

    def test_sdpa_has_the_gradients_of_manual(self, networks):
        found = []
        for kernel in (None, torch.nn.functional.scaled_dot_product_attention):
            options = {} if kernel is None else {"window_attention": PublishedWindowAttention(kernel)}
            step = GeneratorStep(copy.deepcopy(networks.generator), true_flows, **options)
            found.append(torch.cat([x.flatten() for x in gradients(step, random_batch(), BOTH)]))
        assert (found[0] - found[1]).norm() < 1e-5 * found[0].norm()


class TestParts:
    def test_are_cut_out_of_everything_alike(self, networks):
        batch = random_batch(local=4, references=0)
        rows = torch.tensor([[0, 8, 24, 32, 2, 1, 2, 0], [8, 0, 24, 32, 2, 0, 1, 3]])
        batch = batch._replace(cuts=rows.expand(2, 2, 8))
        _, frames, remaining = GeneratorStep(networks.generator, true_flows).prepare(batch)
        parts, flows, filled, left = cut(batch, batch.flows, frames, remaining)
        assert (parts.frames.shape, parts.local) == ((4, 3, 3, 24, 32), 2)
        second = (1, [0, 1, 3], slice(None), slice(8, 32), slice(0, 32))  # of the second clip
        for whole, part_ in (
            (batch.truth, parts.truth),
            (batch.masks, parts.masks),
            (frames, filled),
            (remaining, left),
        ):
            assert part_[3].equal(whole[second])
        assert flows[1][2].equal(batch.flows[1][1, 1:2, :, 0:24, 8:40])

    def test_are_what_is_learned_from(self, networks):
        rows = torch.tensor([[0, 8, 24, 32, 3, 0, 1, 2]]).expand(2, 1, 8)
        batch = random_batch(references=0)
        losses, composite, _ = GeneratorStep(networks.generator, true_flows, False)(batch._replace(cuts=rows))
        assert composite.shape == (2, 3, 3, 24, 32)
        assert set(losses) == {"hole", "valid", "filled", "unfilled", "coarse"}


class TestRaft:
    @pytest.mark.slow
    def test_learns_a_pair_with_batch_norm_frozen(self, networks):
        network = copy.deepcopy(networks.raft)
        statistics = copy.deepcopy(network.context_encoder.convnormrelu[1].running_mean)
        batch = random_batch(clips=1, local=2, references=0, size=(128, 128))
        step = RaftStep(network, true_flows, iterations=2).train()
        before, after = learned(step, {"sequence": 1.0}, batch, 5, rate=3e-3)
        assert after < 0.9 * before
        assert network.context_encoder.convnormrelu[1].running_mean.equal(statistics)

    def test_gives_the_truth_of_filmed_clips(self, networks):
        batch = random_batch(clips=1, local=2, references=1, size=(128, 128))
        flows = raft_flows(networks.raft.eval(), 1)(batch)
        assert [flow.shape for flow in flows] == [(1, 1, 2, 128, 128)] * 2
        assert not flows[0].requires_grad


class TestCheckpointing:
    @pytest.mark.parametrize(
        ("network", "level"), [("flow_completion", "all"), ("generator", "blocks"), ("generator", "all")]
    )
    def test_gradients_are_bit_equal(self, networks, network, level):
        """On the CPU: the same kernels on the same numbers, in the same order."""

        def step(level: str):
            copied = apply_checkpointing(copy.deepcopy(getattr(networks, network)).train(), level)
            return completion_step(copied) if network == "flow_completion" else GeneratorStep(copied, true_flows)

        weights = EVERY if network == "flow_completion" else BOTH
        plain, again = (gradients(step(name), random_batch(), weights) for name in ("none", level))
        assert len(plain) == len(again) > 10
        assert all(one.equal(other) for one, other in zip(plain, again, strict=True))

    def test_keeps_less(self, networks):
        def kept(level: str) -> int:
            network = apply_checkpointing(copy.deepcopy(networks.generator), level)
            sizes: dict[int, int] = {}

            def pack(x: torch.Tensor) -> torch.Tensor:
                sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
                return x

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                output = GeneratorStep(network, true_flows)(random_batch())
            del output
            return sum(sizes.values())

        none, blocks, every = kept("none"), kept("blocks"), kept("all")
        assert every < blocks < none

    def test_a_copy_computes_with_its_own_weights(self, networks):
        network = apply_checkpointing(copy.deepcopy(networks.generator), "blocks")
        copied = copy.deepcopy(network)
        assert copied.transformers.transformer[0].forward.args[0].__self__ is copied.transformers.transformer[0]

    def test_unknown_level(self, networks):
        with pytest.raises(InputError, match="none, blocks, all"):
            apply_checkpointing(networks.generator, "some")


@pytest.mark.parametrize("network", ["flow_completion", "generator"])
def test_bfloat16_on_the_cpu_is_near_float32(networks, network):
    found = []
    for enabled in (False, True):
        copied = use_sampled_deform_conv(copy.deepcopy(getattr(networks, network)))
        step = completion_step(copied, BOTH) if network == "flow_completion" else GeneratorStep(copied, true_flows)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            total = weighted_sum(losses_of(step, random_batch(clips=1)), BOTH)
            total.backward()
        found.append(total.item())
        assert all(p.grad.isfinite().all() for p in step.parameters() if p.grad is not None)
    assert found[0] != found[1] == pytest.approx(found[0], rel=0.02)


class TestCut:
    def test_parts_are_what_their_rows_name(self):
        """Against single frames and flows, cut one by one."""
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape):
            return torch.rand(2, *shape, 17, 23, generator=generator)

        whole = Batch(drawn(7, 3), drawn(7, 3), drawn(7, 1), drawn(5, 1))  # five local frames, two references
        flows, filled, remaining = (drawn(4, 2), drawn(4, 2)), drawn(7, 3), drawn(7, 1)
        # Top, left, height, width, three local frames; then those, and two references: of either kind.
        rows = [
            [[0, 0, 8, 16, 3, 0, 1, 2, 5, 6], [9, 7, 8, 16, 3, 2, 3, 4, 0, 6]],
            2 * [[3, 1, 8, 16, 3, 1, 2, 3, 6, 4]],
        ]
        batch = whole._replace(cuts=torch.tensor(rows))
        parts, (flow_f, flow_b), cut_filled, cut_remaining = cut(batch, flows, filled, remaining)
        assert (parts.local, parts.cuts, parts.flows, len(parts.frames)) == (3, None, None, 4)
        number = 0
        for clip in range(2):
            for top, left, height, width, local, *numbers in rows[clip]:

                def there(x, t, clip=clip, place=(top, left, height, width)):
                    top, left, height, width = place
                    return x[clip, t, :, top : top + height, left : left + width]

                for i, t in enumerate(numbers):
                    pairs = zip((parts.frames, parts.truth, parts.masks), whole[:3], strict=True)
                    for got, given in [*pairs, (cut_filled, filled), (cut_remaining, remaining)]:
                        assert torch.equal(got[number, i], there(given, t))
                for i, t in enumerate(numbers[:local]):
                    assert torch.equal(parts.flow_masks[number, i], there(whole.flow_masks, t))
                for i, t in enumerate(numbers[: local - 1]):
                    assert torch.equal(flow_f[number, i], there(flows[0], t))
                    assert torch.equal(flow_b[number, i], there(flows[1], t))
                number += 1
        assert number == 4
