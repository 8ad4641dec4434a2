"""COCO's masks: every count against a plain drawing of the mask, and compressed texts against pycocotools'."""

import numpy as np
import pytest

from detectors.data.run_lengths import decode_counts, outline_points, read_mask


def counts_of(mask):
    """Return the run lengths of a (height, width) mask, column by column."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1):
        if bool(pixel) != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return counts


def corners_of(mask):
    """Return the four corners of every pixel inside."""
    rows, columns = np.nonzero(mask)
    return {(x + a, y + b) for x, y in zip(columns, rows, strict=True) for a in (0, 1) for b in (0, 1)}


def hull(points):
    """Return the corners of the convex hull (Andrew's monotone chain)."""
    points = sorted(points)

    def half(points):
        line = []
        for p in points:
            while len(line) > 1 and (line[-1][0] - line[-2][0]) * (p[1] - line[-2][1]) <= (
                line[-1][1] - line[-2][1]
            ) * (p[0] - line[-2][0]):
                line.pop()
            line.append(p)
        return line[:-1]

    return set(half(points) + half(points[::-1]))


@pytest.mark.parametrize("seed", range(12))
def test_the_outline_has_the_convex_hull_of_all_pixels(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 9)) < (0.1, 0.5, 0.9)[seed % 3]
    mask[2, 3] = True
    points = {tuple(point) for point in outline_points(np.array(counts_of(mask)), 7).tolist()}
    assert points <= {(float(x), float(y)) for x, y in corners_of(mask)}
    assert hull(points) == hull({(float(x), float(y)) for x, y in corners_of(mask)})


def test_a_full_mask_is_the_whole_picture_and_an_empty_one_nothing():
    full = outline_points(np.array([0, 12]), 3)
    assert (full.min(axis=0).tolist(), full.max(axis=0).tolist()) == ([0, 0], [4, 3])
    assert outline_points(np.array([12]), 3).shape == (0, 2)


def test_compressed_counts_are_read_as_pycocotools_wrote_them():
    rows, columns = np.mgrid[:300, :40]
    mask = ((rows - 150) / (30 + 4 * columns)) ** 2 + ((columns - 20) / 15) ** 2 < 1
    text = "[l1W1l7b0^Ob0@>A`0A>C<C>C<D<D<D<E:G8H8H8I6J6K4M2O0002L6H9F<Ba0\\Oh0TOS1fNf\\1"  # pycocotools 2.0.11
    assert decode_counts(text) == counts_of(mask)


def test_both_ways_of_writing_give_the_same_mask():
    plain, _, _ = read_mask({"size": [4, 4], "counts": [5, 2, 2, 2, 5]})
    packed, height, width = read_mask({"size": [4, 4], "counts": "52203"})
    assert (plain.tolist(), height, width) == (packed.tolist(), 4, 4)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ({"counts": [4]}, "size is None, expected [height, width]"),
        ({"size": [2], "counts": [4]}, "size is [2], expected [height, width]"),
        ({"size": [0, 4], "counts": []}, "size is [0, 4], expected [height, width]"),
        ({"size": [10**30, 4], "counts": []}, "expected [height, width]"),
        ({"size": [2, 2]}, "counts is neither a list of run lengths nor a compressed text"),
        ({"size": [2, 2], "counts": [1, -1, 4]}, "counts is neither a list of run lengths"),
        ({"size": [2, 2], "counts": [1, 2.0, 1]}, "counts is neither a list of run lengths"),
        ({"size": [2, 2], "counts": [1, 2]}, "counts add up to 3 pixels, expected 2 x 2 = 4"),
        ({"size": [2, 2], "counts": "4 "}, "counts has ' ' at place 1, expected characters from '0' to 'o'"),
        ({"size": [2, 2], "counts": "4X"}, "counts ends inside a number"),
    ],
)
def test_a_wrong_mask_is_refused_with_what_was_expected(mask, expected):
    with pytest.raises(ValueError) as error:  # noqa: PT011 the text is compared
        read_mask(mask)
    assert expected in str(error.value)
