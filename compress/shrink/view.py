"""A picture as it enters the network, beside the picture as it is: a wrong guess is the commonest mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compress.pictures.decoding import read_image
from compress.shrink.pictures import Inputs

_TALLEST = 640  # px


def input_picture(inputs: Inputs, file: Path) -> bytes:
    """Return a PNG: left the picture, right what the network is given of it, its colours in the order it sees them.

    Channels are brought back to brightness by mean and scale, red where the network's first channel is red. A network
    that was trained with the other order sees a blue sky as brown: then the right half looks right and is wrong, so
    the three channels stand below, first to last.
    """
    import cv2

    preprocessing = inputs.preprocessing
    assert preprocessing is not None
    picture = read_image(file, inputs.reading)
    (values,) = inputs.one(file).values()
    means, stds = (np.array(one, np.float32)[:, None, None] for one in preprocessing.in_brightness(values.shape[1]))
    seen = (values[0] * stds + means).clip(0, 255).astype(np.uint8)
    order = seen if preprocessing.bgr or len(seen) == 1 else seen[::-1]
    shown = np.repeat(order, 3, axis=0) if len(order) == 1 else order
    right = np.ascontiguousarray(shown.transpose(1, 2, 0))
    rows = [_side_by_side([picture, right])]
    channels = [np.repeat(one[:, :, None], 3, axis=2) for one in seen]
    rows.append(_side_by_side([_labelled(one, f"channel {number}") for number, one in enumerate(channels)]))
    width = max(row.shape[1] for row in rows)
    padded = [cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT) for row in rows]
    told = np.zeros((28, width, 3), np.uint8)
    words = f"left: the picture; right: as it enters; {preprocessing}"
    cv2.putText(told, words, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    done, data = cv2.imencode(".png", np.concatenate([told, *padded]))
    assert done
    return data.tobytes()


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    import cv2

    height = min(_TALLEST, max(one.shape[0] for one in pictures))
    scaled = [cv2.resize(one, (max(round(one.shape[1] * height / one.shape[0]), 1), height)) for one in pictures]
    return np.concatenate(scaled, axis=1)


def _labelled(picture: np.ndarray, words: str) -> np.ndarray:
    import cv2

    small = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.putText(small, words, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 255), 1, cv2.LINE_AA)
    return small
