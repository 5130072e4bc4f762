"""The plugin ops again, as plain NumPy loops: nothing here is shared with onnxgraft.plugins.

Written from the CUDA kernels' behaviour, one box at a time, in float32 where the kernels are.
"""

from __future__ import annotations

import math

import numpy as np

f32 = np.float32


def iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    """float32 IoU of two corner boxes; 0 for boxes that do not overlap, NaN stays NaN."""
    ax1, ax2 = (a[0], a[2]) if not a[0] > a[2] else (a[2], a[0])
    ay1, ay2 = (a[1], a[3]) if not a[1] > a[3] else (a[3], a[1])
    bx1, bx2 = (b[0], b[2]) if not b[0] > b[2] else (b[2], b[0])
    by1, by2 = (b[1], b[3]) if not b[1] > b[3] else (b[3], b[1])

    def area(x1: f32, y1: f32, x2: f32, y2: f32) -> f32:
        w, h = f32(x2 - x1), f32(y2 - y1)
        return f32(0) if h <= 0 or w <= 0 else f32(h * w)

    x1 = ax1 if ax1 > bx1 else bx1
    y1 = ay1 if ay1 > by1 else by1
    x2 = ax2 if ax2 < bx2 else bx2
    y2 = ay2 if ay2 < by2 else by2
    inter = area(x1, y1, x2, y2)
    if inter <= 0:
        return f32(0)
    union = f32(f32(area(ax1, ay1, ax2, ay2) + area(bx1, by1, bx2, by2)) - inter)
    return f32(0) if union <= 0 else f32(inter / union)


def efficient_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_output_boxes: int,
    background_class: int,
    score_activation: int,
    class_agnostic: int,
    box_coding: int,
    cap: int = 5000,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The four outputs of EfficientNMS_TRT."""
    batch, count, classes = scores.shape
    per_class = boxes.ndim == 4 and boxes.shape[2] == classes
    limit, dense_below = f32(score_threshold), f32(0.007)
    if score_activation:
        dense_below = f32(math.log(0.007 / 0.993))
        limit = f32(-32768)
        if score_threshold > 0:
            t = f32(score_threshold)
            limit = np.log(f32(t / f32(f32(1) - t)))
    dense = limit < dense_below

    number = np.zeros((batch, 1), np.int32)
    out_boxes = np.zeros((batch, max_output_boxes, 4), f32)
    out_scores = np.zeros((batch, max_output_boxes), f32)
    out_classes = np.zeros((batch, max_output_boxes), np.int32)
    for image in range(batch):
        candidates = []
        for element in range(count * classes):
            anchor, label = divmod(element, classes)
            score = scores[image, anchor, label]
            passed = bool(score >= limit) and label != background_class
            if passed or dense:
                candidates.append((float(score) if passed else -32768.0, element))
        candidates.sort(key=lambda c: -c[0])  # stable: ties keep the element order
        kept: list[tuple[np.ndarray, int]] = []
        for score, element in candidates[:cap]:
            if len(kept) == max_output_boxes:
                break
            anchor, label = divmod(element, classes)
            own = boxes[image] if per_class else boxes[image].reshape(count, 1, 4)
            box = own[anchor, label if per_class else 0]
            if box_coding == 1:
                half = box[2:] * f32(0.5)
                box = np.concatenate([box[:2] - half, box[:2] + half])
            rivals = [b for b, c in kept if class_agnostic or c == label]
            if any(iou(box, rival) >= f32(iou_threshold) for rival in rivals):
                continue
            row = len(kept)
            out_boxes[image, row] = box
            with np.errstate(over="ignore"):
                sigmoid = f32(1) / (f32(1) + np.exp(-f32(score)))
            out_scores[image, row] = sigmoid if score_activation else score
            out_classes[image, row] = label
            kept.append((box, label))
        number[image] = len(kept)
    return number, out_boxes, out_scores, out_classes


def bilinear(plane: np.ndarray, y: float, x: float) -> np.ndarray:
    """plane [C,H,W] read at a point inside 0..H-1, 0..W-1."""
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, plane.shape[1] - 1), min(x0 + 1, plane.shape[2] - 1)
    dy, dx = y - y0, x - x0
    top = plane[:, y0, x0] * (1 - dx) + plane[:, y0, x1] * dx
    bottom = plane[:, y1, x0] * (1 - dx) + plane[:, y1, x1] * dx
    return top * (1 - dy) + bottom * dy


def pyramid_levels(
    rois: np.ndarray, image_size: tuple[int, int], fpn_scale: int, plusone: int, absolute: int
) -> np.ndarray:
    """Level 0..3 of boxes [R,4] x1,y1,x2,y2 that lie inside the image."""
    height, width = f32(image_size[0]), f32(image_size[1])
    first = f32(fpn_scale) * f32(fpn_scale) / f32(image_size[0] * image_size[1])
    first = np.sqrt(f32(first))
    first = f32(f32(first * first) / f32(4))
    levels = []
    for x1, y1, x2, y2 in rois.astype(f32):
        if absolute:
            x1, x2, y1, y2 = x1 / width, x2 / width, y1 / height, y2 / height
        h, w = y2 - y1, x2 - x1
        if plusone:
            h, w = h + f32(1) / height, w + f32(1) / width
        area = f32(h * w)
        levels.append(sum(bool(area > first * f32(factor)) for factor in (1, 4, 16)))
    return np.array(levels)


def pyramid_roi_align(
    rois: np.ndarray,
    *maps: np.ndarray,
    pooled_size: int,
    image_size: tuple[int, int],
    fpn_scale: int = 224,
    sampling_ratio: int = 0,
    roi_coords_absolute: int = 1,
    roi_coords_swap: int = 0,
    roi_coords_plusone: int = 0,
    roi_coords_transform: int = 2,
    most_samples: int | None = None,
) -> np.ndarray:
    """PyramidROIAlign_TRT [N,R,C,P,P]; most_samples bounds the adaptive samples per axis."""
    batch, per_image, _ = rois.shape
    result = np.zeros((batch, per_image, maps[0].shape[1], pooled_size, pooled_size))
    size_x, size_y = (image_size[1], image_size[0]) if roi_coords_absolute else (1, 1)
    for image in range(batch):
        for row in range(per_image):
            a, b, c, d = rois[image, row].astype(f32)
            if roi_coords_swap:
                a, b, c, d = b, a, d, c
            # fmin and fmax: the GPU's min and max pass over a NaN
            x1, x2 = np.fmin(a, c), np.fmax(a, c)
            y1, y2 = np.fmin(b, d), np.fmax(b, d)
            x1, x2 = (np.fmax(f32(0), np.fmin(f32(size_x), v)) for v in (x1, x2))
            y1, y2 = (np.fmax(f32(0), np.fmin(f32(size_y), v)) for v in (y1, y2))
            box = np.array([[x1, y1, x2, y2]])
            level = pyramid_levels(
                box, image_size, fpn_scale, roi_coords_plusone, roi_coords_absolute
            )[0]
            plane = maps[level][image]
            _, rows, columns = plane.shape
            shift = f32(0.5) if roi_coords_transform == 2 else f32(0)
            within = 0.0 if roi_coords_transform == 0 else 0.5
            left, right = (f32(v / f32(size_x)) * f32(columns) - shift for v in (x1, x2))
            top, bottom = (f32(v / f32(size_y)) * f32(rows) - shift for v in (y1, y2))
            bin_x, bin_y = f32((right - left) / pooled_size), f32((bottom - top) / pooled_size)
            rx = sampling_ratio or max(1, math.ceil(bin_x))
            ry = sampling_ratio or max(1, math.ceil(bin_y))
            if most_samples and not sampling_ratio:
                rx, ry = min(rx, most_samples), min(ry, most_samples)
            for p in range(pooled_size):
                for q in range(pooled_size):
                    total = 0.0
                    for i in range(ry):
                        y = float(top) + float(bin_y) * (p + (i + within) / ry)
                        y = min(max(y, 0.0), rows - 1.0)
                        for j in range(rx):
                            x = float(left) + float(bin_x) * (q + (j + within) / rx)
                            x = min(max(x, 0.0), columns - 1.0)
                            total = total + bilinear(plane, y, x)
                    result[image, row, :, p, q] = total / (rx * ry)
    return result


def roi_align(
    x_map: np.ndarray,
    rois: np.ndarray,
    batch_indices: np.ndarray,
    *,
    output_height: int,
    output_width: int,
    spatial_scale: float,
    sampling_ratio: int = 0,
    mode: int = 1,
    coordinate_transformation_mode: int = 1,
) -> np.ndarray:
    """ROIAlign_TRT [R,C,height,width]; NaN where the mean is over no sample."""
    _, channels, rows, columns = x_map.shape
    result = np.zeros((len(rois), channels, output_height, output_width))
    for index, (roi, image) in enumerate(zip(rois, batch_indices, strict=True)):
        if np.isnan(roi).any():
            result[index] = np.nan
            continue
        shift = f32(0.5 if coordinate_transformation_mode else 0)
        left, top, right, bottom = (f32(v * f32(spatial_scale)) - shift for v in roi)
        width, height = right - left, bottom - top
        if not coordinate_transformation_mode:
            width, height = max(width, f32(1)), max(height, f32(1))
        bin_x, bin_y = f32(width / output_width), f32(height / output_height)
        rx = sampling_ratio or math.ceil(bin_x)
        ry = sampling_ratio or math.ceil(bin_y)
        for p in range(output_height):
            for q in range(output_width):
                samples = []
                for i in range(ry):
                    y = float(top) + float(bin_y) * (p + (i + 0.5) / ry)
                    for j in range(rx):
                        x = float(left) + float(bin_x) * (q + (j + 0.5) / rx)
                        samples.append(_sample(x_map[image], y, x, rows, columns, mode))
                if mode == 0:
                    result[index, :, p, q] = np.max(samples, axis=0) if samples else 0
                elif rx * ry == 0:
                    result[index, :, p, q] = np.nan
                else:
                    result[index, :, p, q] = sum(samples) / (rx * ry)
    return result


def _sample(
    plane: np.ndarray, y: float, x: float, rows: int, columns: int, mode: int
) -> np.ndarray:
    if y < -1 or y > rows or x < -1 or x > columns:
        return np.zeros(plane.shape[0])
    y, x = min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)
    if mode == 1:
        return bilinear(plane, y, x)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
    dy, dx = y - y0, x - x0
    corners = [
        plane[:, y0, x0] * (1 - dy) * (1 - dx),
        plane[:, y0, x1] * (1 - dy) * dx,
        plane[:, y1, x0] * dy * (1 - dx),
        plane[:, y1, x1] * dy * dx,
    ]
    return np.max(corners, axis=0)
