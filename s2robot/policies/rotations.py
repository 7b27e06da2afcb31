"""Rotations as recorded in actions, and as the 6-D form that networks learn (Zhou et al., arXiv 1812.07035).

The 6-D form is the first two rows of the rotation matrix, as in PyTorch3D, Diffusion Policy and robomimic. Unlike the
other forms it has no jumps: near rotations have near numbers. Any two rows that are not parallel become a rotation by
Gram-Schmidt.

| form | numbers | meaning |
|---|---|---|
| `axis_angle` | 3 | axis times angle [rad], as robosuite's controllers take it |
| `euler_xyz` | 3 | angles [rad] about the fixed axes x, then y, then z (roll, pitch, yaw) |
| `euler_xyz_intrinsic` | 3 | angles [rad] about the axes x, y, z that turn along, as in robomimic |
| `quaternion_xyzw` | 4 | unit quaternion, the real part last, as in robosuite and SciPy |
| `quaternion_wxyz` | 4 | unit quaternion, the real part first, as in MuJoCo |
| `matrix` | 9 | rotation matrix, row by row |
| `rot_6d` | 6 | the first two rows of the rotation matrix |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LEARNED_WIDTH = 6
_SMALL = 1e-9  # below this, sin(x) / x is 1 to every digit of float32


def to_6d(values: Tensor, form: str) -> Tensor:
    """Map rotations […, n] in a recorded form to the 6-D form […, 6].

    Numbers that are not exactly a rotation, such as a quaternion of another length, are taken for the one in their
    direction. An axis-angle, Euler angles or a quaternion of zeros is the identity.
    """
    match form:
        case "axis_angle":
            matrix = _matrix_of_quaternion(_quaternion_of_axis_angle(values))
        case "euler_xyz":
            matrix = _matrix_of_euler(values)
        case "euler_xyz_intrinsic":  # the inverse of the opposite angles about the fixed axes
            matrix = _matrix_of_euler(-values).mT
        case "quaternion_xyzw":
            matrix = _matrix_of_quaternion(values.roll(1, -1))
        case "quaternion_wxyz":
            matrix = _matrix_of_quaternion(values)
        case _:
            matrix = gram_schmidt(values[..., :LEARNED_WIDTH])
    return matrix[..., :2, :].flatten(-2)


def from_6d(values: Tensor, form: str) -> Tensor:
    """Map any six numbers […, 6] to the rotation that Gram-Schmidt makes of them, in a recorded form […, n].

    Several numbers can stand for one rotation. Taken are an axis-angle of at most π, a quaternion whose real part is 0
    or more, and Euler angles with the second in [-π/2, π/2].
    """
    matrix = gram_schmidt(values)
    match form:
        case "axis_angle":
            return _axis_angle_of_quaternion(_quaternion_of_matrix(matrix))
        case "euler_xyz":
            return _euler_of_matrix(matrix)
        case "euler_xyz_intrinsic":
            return -_euler_of_matrix(matrix.mT)
        case "quaternion_xyzw":
            return _quaternion_of_matrix(matrix).roll(-1, -1)
        case "quaternion_wxyz":
            return _quaternion_of_matrix(matrix)
        case "matrix":
            return matrix.flatten(-2)
        case _:
            return matrix[..., :2, :].flatten(-2)


def gram_schmidt(values: Tensor) -> Tensor:
    """Map two rows […, 6] to a rotation matrix […, 3, 3]: the first row's direction, and what the second adds to it."""
    first, second = values[..., :3], values[..., 3:]
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, _cross(x, y)], dim=-2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    (a1, a2, a3), (b1, b2, b3) = a.unbind(-1), b.unbind(-1)
    return torch.stack([a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1], dim=-1)


def _rows(*numbers: Tensor) -> Tensor:
    return torch.stack(numbers, dim=-1).unflatten(-1, (3, 3))


# All quaternions here have the real part first.


def _quaternion_of_axis_angle(vector: Tensor) -> Tensor:
    angle = vector.norm(dim=-1, keepdim=True)
    # sinc(x) is sin(πx) / (πx), and 1 at 0.
    return torch.cat([(angle / 2).cos(), vector / 2 * torch.sinc(angle / (2 * math.pi))], dim=-1)


def _axis_angle_of_quaternion(quaternion: Tensor) -> Tensor:
    real, vector = quaternion[..., :1], quaternion[..., 1:]
    sine = vector.norm(dim=-1, keepdim=True)
    small = sine < _SMALL
    factor = 2 * torch.atan2(sine, real) / torch.where(small, torch.ones_like(sine), sine)
    return vector * torch.where(small, torch.full_like(factor, 2.0), factor)


def _matrix_of_quaternion(quaternion: Tensor) -> Tensor:
    w, x, y, z = quaternion.unbind(-1)
    squared = quaternion.square().sum(-1)
    s = 2 / torch.where(squared == 0, torch.ones_like(squared), squared)
    return _rows(
        1 - s * (y * y + z * z),
        s * (x * y - w * z),
        s * (x * z + w * y),
        s * (x * y + w * z),
        1 - s * (x * x + z * z),
        s * (y * z - w * x),
        s * (x * z - w * y),
        s * (y * z + w * x),
        1 - s * (x * x + y * y),
    )


def _quaternion_of_matrix(matrix: Tensor) -> Tensor:
    """Divide by the largest of the four numbers, which is at least 1/2: exact for every angle."""
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in matrix.unbind(-2))
    # Row i is the quaternion times four times its number i.
    candidates = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], dim=-1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], dim=-1),
            torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m12 + m21], dim=-1),
            torch.stack([m10 - m01, m20 + m02, m21 + m12, 1 - m00 - m11 + m22], dim=-1),
        ],
        dim=-2,
    )
    largest = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = candidates.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    chosen = F.normalize(chosen, dim=-1)
    return torch.where(chosen[..., :1] < 0, -chosen, chosen)


def _matrix_of_euler(angles: Tensor) -> Tensor:
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    return _rows(
        cy * cz,
        sx * sy * cz - cx * sz,
        cx * sy * cz + sx * sz,
        cy * sz,
        sx * sy * sz + cx * cz,
        cx * sy * sz - sx * cz,
        -sy,
        sx * cy,
        cx * cy,
    )


def _euler_of_matrix(matrix: Tensor) -> Tensor:
    """Find the last angle first and the others given it, which stays exact where the second is near ±π/2."""
    (m00, m01, m02), (m10, m11, m12), (m20, _, _) = (row.unbind(-1) for row in matrix.unbind(-2))
    z = torch.atan2(m10, m00)
    c, s = z.cos(), z.sin()
    return torch.stack([torch.atan2(s * m02 - c * m12, c * m11 - s * m01), torch.atan2(-m20, c * m00 + s * m10), z], -1)
