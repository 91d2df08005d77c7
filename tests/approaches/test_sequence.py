"""Layouts and the attention rule against loops, and a small attention that padding and packing must not change."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from approaches.shared.kernels.attention import AttentionMask, attention
from approaches.shared.randomness import generator
from approaches.shared.sequence import Layout, Packed, Segment, attention_mask, pack

SEGMENTS = st.builds(Segment, st.sampled_from(["text", "image"]), st.integers(1, 5))
LAYOUTS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda segments: Layout(tuple(segments)))


def loop_rule(layout: Layout, valid: list[bool]) -> Tensor:
    """T T: the rule, read out token by token from the segments themselves."""
    owner = [(number, s.modality) for number, s in enumerate(layout.segments) for _ in range(s.places)]
    allowed = torch.zeros(len(owner), len(owner), dtype=torch.bool)
    for q, (q_segment, q_modality) in enumerate(owner):
        for k, (k_segment, _) in enumerate(owner):
            same_image = q_modality == "image" and q_segment == k_segment
            allowed[q, k] = valid[k] and (k <= q or same_image)
    return allowed


def token_validity(layout: Layout, text_mask: Tensor) -> list[bool]:
    """T: the text mask's entries at the text tokens, True elsewhere."""
    entries = iter(text_mask.tolist())
    return [
        next(entries) if segment.modality == "text" else True
        for segment in layout.segments
        for _ in range(segment.places)
    ]


def small_attention(x: Tensor, positions: Tensor, mask: AttentionMask, backend: str = "sdpa") -> Tensor:
    """Two layers of attention (two heads) that depend on positions through rotary angles; B T 16."""
    g = generator(0, "test sequence weights")
    for _ in range(2):
        w_q, w_k, w_v = (torch.randn(16, 16, generator=g) / 4 for _ in range(3))
        angle = positions[..., None].float() * torch.tensor([1.0, 0.1])
        rotation = torch.polar(torch.ones_like(angle), angle)[:, None]  # B 1 T 2

        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (2, 8)).transpose(1, 2)

        def rotate(y: Tensor, rotation: Tensor = rotation) -> Tensor:
            turned, rest = y.split(4, -1)
            turned = torch.view_as_complex(turned.unflatten(-1, (2, 2)).contiguous()) * rotation
            return torch.cat([torch.view_as_real(turned).flatten(-2), rest], -1)

        q, k, v = rotate(heads(x @ w_q)), rotate(heads(x @ w_k)), heads(x @ w_v)
        x = x + attention(q, k, v, mask=mask, backend=backend).transpose(1, 2).flatten(-2)
    return x


def padded(text: list[Tensor], length: int, side: str) -> tuple[Tensor, Tensor]:
    """B length 16 with garbage as padding, and its text mask."""
    x = torch.randn(len(text), length, 16, generator=generator(9, "garbage")) * 100
    mask = torch.zeros(len(text), length, dtype=torch.bool)
    for row, tokens in enumerate(text):
        span = slice(0, len(tokens)) if side == "right" else slice(length - len(tokens), length)
        x[row, span], mask[row, span] = tokens, True
    return x, mask


def tokens(seed: int, length: int) -> Tensor:
    return torch.randn(length, 16, generator=generator(seed, "tokens", length))


# -------------------------------------------------------------------------------------------------------- layout


def test_slices_of_the_two_orders():
    text_first, image_first = Layout.text_first(5, 4), Layout.image_first(4, 5)
    assert text_first.length == image_first.length == 11
    assert text_first.slices("text") == (slice(0, 5),) and text_first.slices("image") == (slice(5, 11),)
    assert text_first.pictures() == (slice(6, 10),)
    assert image_first.slices("image") == (slice(0, 6),) and image_first.slices("text") == (slice(6, 11),)
    assert image_first.pictures() == (slice(1, 5),)
    assert Layout.text_only(3).slices("image") == ()


@settings(deadline=None, max_examples=50)
@given(LAYOUTS)
def test_slices_cover_the_sequence_once(layout):
    covered = sorted(i for m in ("text", "image") for s in layout.slices(m) for i in range(s.start, s.stop))
    assert covered == list(range(layout.length))
    assert sum(s.stop - s.start for s in layout.slices("text")) == layout.text_length


@settings(deadline=None, max_examples=50)
@given(LAYOUTS)
def test_join_is_the_inverse_of_select(layout):
    x = torch.randn(2, layout.length, 3)
    assert torch.equal(layout.join(layout.select(x, "text"), layout.select(x, "image")), x)


def test_select_of_one_slice_copies_nothing():
    x = torch.randn(2, 11, 3)
    layout = Layout.text_first(5, 4)
    assert layout.select(x, "image").data_ptr() == x[:, 5:].data_ptr()


def test_bad_layouts():
    layout = Layout.text_first(5, 4)
    with pytest.raises(ValueError, match="unknown modality"):
        Segment("sound", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        Layout.text_first(0, 4)
    with pytest.raises(ValueError, match=r"bool \(B, 5\)"):
        layout.valid(torch.ones(2, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="bool"):
        layout.valid(torch.ones(2, 5))
    with pytest.raises(ValueError, match="without a place"):
        layout.join(torch.zeros(1, 6, 1), torch.zeros(1, 6, 1))
    with pytest.raises(ValueError, match="10 tokens for the 11 places"):
        layout.join(torch.zeros(1, 5, 1), torch.zeros(1, 5, 1))
    for queries in (slice(0, 4, 2), slice(3, 3)):
        with pytest.raises(ValueError, match="step 1"):
            attention_mask(layout, queries=queries)


# ------------------------------------------------------------------------------------------------------ the rule


@settings(deadline=None, max_examples=60)
@given(LAYOUTS, st.data())
def test_rule_equals_the_loop(layout, data):
    batch = data.draw(st.integers(1, 3))
    bits = st.lists(st.booleans(), min_size=layout.text_length, max_size=layout.text_length)
    text_mask = torch.tensor([data.draw(bits) for _ in range(batch)], dtype=torch.bool).reshape(batch, -1)
    dense = attention_mask(layout, text_mask).dense
    assert dense.shape == (batch, 1, layout.length, layout.length)
    for row in range(batch):
        assert torch.equal(dense[row, 0], loop_rule(layout, token_validity(layout, text_mask[row])))


@settings(deadline=None, max_examples=30)
@given(LAYOUTS)
def test_rule_without_padding_equals_the_loop(layout):
    mask = attention_mask(layout)
    assert mask.batch is None
    assert torch.equal(mask.dense[0, 0], loop_rule(layout, [True] * layout.length))


def test_text_before_an_image_never_sees_it_and_images_are_full():
    layout = Layout.text_first(5, 4)
    dense = attention_mask(layout).dense[0, 0]
    (text,), (image,) = layout.slices("text"), layout.slices("image")
    assert not dense[text, image].any()
    assert dense[image, image].all() and dense[image, text].all()
    assert torch.equal(dense[text, text], torch.ones(5, 5, dtype=torch.bool).tril())
    captioning = attention_mask(Layout.image_first(4, 5)).dense[0, 0]
    assert captioning[6:, :6].all() and not captioning[:6, 6:].any()
    assert torch.equal(captioning[6:, 6:], torch.ones(5, 5, dtype=torch.bool).tril())


def test_two_images_see_each_other_in_order_only():
    layout = Layout((Segment("image", 1), Segment("image", 2)))
    dense = attention_mask(layout).dense[0, 0]
    assert dense[3:, :3].all() and not dense[:3, 3:].any()


@settings(deadline=None, max_examples=40)
@given(LAYOUTS, st.data())
def test_queries_of_a_part_are_rows_of_the_whole(layout, data):
    start = data.draw(st.integers(0, layout.length - 1))
    stop = data.draw(st.integers(start + 1, layout.length))
    text_mask = torch.rand(2, layout.text_length, generator=generator(0, "validity")) < 0.5
    whole, part = attention_mask(layout, text_mask), attention_mask(layout, text_mask, queries=slice(start, stop))
    assert (part.queries, part.keys) == (stop - start, layout.length)
    assert torch.equal(part.dense, whole.dense[:, :, start:stop])


def test_image_queries_over_kept_text_give_the_same_output():
    layout = Layout.text_first(7, 4)
    (image,) = layout.slices("image")
    text_mask = torch.arange(7) < torch.tensor([[7], [3]])
    g = generator(0, "kept text")
    q, k, v = (torch.randn(2, 2, layout.length, 8, generator=g) for _ in range(3))
    whole = attention(q, k, v, mask=attention_mask(layout, text_mask), backend="sdpa")
    part = attention(q[:, :, image], k, v, mask=attention_mask(layout, text_mask, queries=image), backend="sdpa")
    torch.testing.assert_close(part, whole[:, :, image], atol=1e-6, rtol=0)


# ----------------------------------------------------------------------------------------------- padding, positions


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("order", ["text_first", "image_first"])
def test_padding_changes_no_position_and_no_output(side, order):
    text = [tokens(i, n) for i, n in enumerate((7, 3, 1))]
    image = torch.stack([tokens(10 + i, 6) for i in range(3)])

    def layout_for(length: int) -> Layout:
        return Layout.text_first(length, 4) if order == "text_first" else Layout.image_first(4, length)

    for extra in (0, 5):
        layout = layout_for(7 + extra)
        x_text, text_mask = padded(text, 7 + extra, side)
        positions = layout.positions(text_mask)
        out = small_attention(layout.join(x_text, image), positions, attention_mask(layout, text_mask))
        for row, own in enumerate(text):
            alone = layout_for(len(own))
            valid = layout.valid(text_mask)[row]
            assert torch.equal(positions[row, valid], torch.arange(alone.length))
            x = alone.join(own[None], image[row : row + 1])
            expected = small_attention(x, alone.positions(), attention_mask(alone))
            torch.testing.assert_close(out[row, valid], expected[0], atol=1e-5, rtol=1e-5)


def test_positions_matter_in_the_small_attention():
    # or the tests that use it would hold nothing
    layout = Layout.text_first(7, 4)
    x, mask = tokens(0, layout.length)[None], attention_mask(layout)
    positions = layout.positions()
    stretched = small_attention(x, positions * 2, mask)
    assert (stretched - small_attention(x, positions, mask)).abs().max() > 1e-2
    assert (small_attention(x, positions, attention_mask(Layout.text_only(13))) - stretched).abs().max() > 1e-2


def test_padding_tokens_take_the_last_valid_position():
    layout = Layout.text_first(4, 1)
    mask = torch.tensor([[True, True, False, False], [False, False, True, True]])
    assert layout.positions(mask).tolist() == [[0, 1, 1, 1, 2, 3, 4], [0, 0, 0, 1, 2, 3, 4]]


# ------------------------------------------------------------------------------------------------------- packing


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(1, 20), max_size=40))
def test_pack_is_first_fit_decreasing(lengths):
    rows = pack(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 20 for row in rows)
    # the plain algorithm
    expected: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [row for row in expected if sum(lengths[j] for j in row) + lengths[i] <= 20]
        if fitting:
            fitting[0].append(i)
        else:
            expected.append([i])
    assert rows == tuple(map(tuple, expected))
    fewest = math.ceil(sum(lengths) / 20)
    assert fewest <= len(rows) <= max(1, 2 * fewest) or not lengths


def test_pack_refuses_what_fits_no_row():
    with pytest.raises(ValueError, match="document 1 has 21 tokens"):
        pack([3, 21], 20)
    with pytest.raises(ValueError, match="document 0 has 0 tokens"):
        pack([0], 20)


@settings(deadline=None, max_examples=40)
@given(st.lists(LAYOUTS, min_size=1, max_size=8))
def test_unpack_is_the_inverse_of_pack(documents):
    packed = Packed(tuple(documents), 32)
    values = [torch.randn(document.length, 3) for document in documents]
    rows = packed.pack(values, fill=7)
    assert rows.shape == (len(packed.rows), 32, 3)
    for value, back in zip(values, packed.unpack(rows), strict=True):
        assert torch.equal(value, back)
    assert (rows[packed.document_ids < 0] == 7).all()
    is_text, is_image = packed.is_modality("text"), packed.is_modality("image")
    assert torch.equal(is_text | is_image, packed.document_ids >= 0) and not (is_text & is_image).any()
    assert int(is_text.sum()) == sum(document.text_length for document in documents)


@settings(deadline=None, max_examples=30)
@given(st.lists(LAYOUTS, min_size=1, max_size=8))
def test_packed_rule_is_block_diagonal(documents):
    packed = Packed(tuple(documents), 32)
    expected = torch.zeros(len(packed.rows), 32, 32, dtype=torch.bool)
    for index, row, span in packed.places():
        expected[row, span, span] = loop_rule(documents[index], [True] * documents[index].length)
    assert torch.equal(packed.attention_mask().dense[:, 0], expected)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_packed_attention_equals_each_document_alone(backend):
    documents = (
        Layout.text_first(5, 4),
        Layout.text_only(9),
        Layout.image_first(2, 3),
        Layout((Segment("text", 2), Segment("image", 3), Segment("text", 1), Segment("image", 1))),
        Layout.text_only(1),
    )
    packed = Packed(documents, 20)
    assert 1 < len(packed.rows) < len(documents)
    values = [tokens(i, document.length) for i, document in enumerate(documents)]
    rows = packed.pack(values, fill=50.0)
    out = packed.unpack(small_attention(rows, packed.positions, packed.attention_mask(), backend))
    for document, value, got in zip(documents, values, out, strict=True):
        expected = small_attention(value[None], document.positions(), attention_mask(document), backend)[0]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_packing_checks_lengths():
    packed = Packed((Layout.text_only(3), Layout.text_only(2)), 8)
    with pytest.raises(ValueError, match=r"documents of \[3, 3\] tokens"):
        packed.pack([torch.zeros(3), torch.zeros(3)])
    with pytest.raises(ValueError, match="9 tokens for rows of 8"):
        Packed((Layout.text_only(9),), 8)
    with pytest.raises(ValueError, match="no documents"):
        Packed((), 8)


# ------------------------------------------------------------------------------------------------- flex attention


def test_the_rules_are_flex_attentions():
    layout = Layout.text_first(7, 4)
    text_mask = torch.arange(7) < torch.tensor([[7], [3]])
    packed = Packed((Layout.text_first(3, 2), Layout.text_only(4), Layout.image_first(2, 5)), 16)
    (image,) = layout.slices("image")
    for mask in (
        attention_mask(layout),
        attention_mask(layout, text_mask),
        attention_mask(layout, text_mask, queries=image),
        packed.attention_mask(),
    ):
        g = generator(0, "flex")
        rows = mask.batch or 2
        q = torch.randn(rows, 2, mask.queries, 16, generator=g)
        k, v = (torch.randn(rows, 2, mask.keys, 16, generator=g) for _ in range(2))
        expected = attention(q, k, v, mask=mask, backend="eager")
        torch.testing.assert_close(attention(q, k, v, mask=mask, backend="flex"), expected, atol=1e-5, rtol=1e-5)
