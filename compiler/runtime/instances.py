"""detectron2's Boxes and Instances without torch: the same attributes and methods over NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError


class Array(np.ndarray):
    """A NumPy array that also answers to what code for tensors calls: `x.detach().cpu().numpy()`."""

    def cpu(self) -> Array:
        """Itself."""
        return self

    def detach(self) -> Array:
        """Itself."""
        return self

    def to(self, *_: Any, **__: Any) -> Array:
        """Itself, whatever the device."""
        return self

    def numpy(self) -> NDArray[Any]:
        """The same data, [...], as a plain NumPy array."""
        return self.view(np.ndarray)


def array(values: Any) -> Array:
    """Values as an Array of the same shape and type; not copied."""
    return np.asarray(values).view(Array)


class Boxes:
    """n boxes: `tensor` float32 [n, 4], x1, y1, x2, y2 in pixels."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = array(np.asarray(tensor, np.float32).reshape(-1, 4))

    def area(self) -> Array:
        """float32 [n], square pixels."""
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return array(sides[:, 0] * sides[:, 1])

    def get_centers(self) -> Array:
        """float32 [n, 2], x and y in pixels."""
        return array((self.tensor[:, :2] + self.tensor[:, 2:]) / np.float32(2))

    def nonempty(self, threshold: float = 0.0) -> Array:
        """bool [n]: both sides longer than `threshold` pixels."""
        return array((self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(axis=1))

    def to(self, *_: Any, **__: Any) -> Boxes:
        """Itself, whatever the device."""
        return self

    def cpu(self) -> Boxes:
        """Itself."""
        return self

    def __getitem__(self, index: Any) -> Boxes:
        """Those that an int, a slice, a mask bool [n] or indices [k] pick."""
        return Boxes(self.tensor[index])

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Array]:
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"Boxes({self.tensor.numpy()!r})"


class Instances:
    """What was found in one image: fields of one length each, as attributes.

    image_size: height and width of the image in pixels. A field is an Array, Boxes, or anything with a length.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self.__dict__["_image_size"] = image_size
        self.__dict__["_fields"] = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size: tuple[int, int] = self.__dict__["_image_size"]
        return size

    def set(self, name: str, value: Any) -> None:
        """Set a field. Raises InputError for another length than the other fields have."""
        fields = self.get_fields()
        if fields and len(value) != len(self):
            raise InputError(f"a field of {len(value)} values cannot join Instances of {len(self)}: {name}")
        fields[name] = value

    def get(self, name: str) -> Any:
        """A field. Raises KeyError."""
        return self.get_fields()[name]

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self.get_fields()

    def remove(self, name: str) -> None:
        """Take a field away. Raises KeyError."""
        del self.get_fields()[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields by name."""
        fields: dict[str, Any] = self.__dict__["_fields"]
        return fields

    def to(self, *_: Any, **__: Any) -> Instances:
        """Itself, whatever the device."""
        return self

    @staticmethod
    def cat(lists: Sequence[Instances]) -> Instances:
        """One after the other, of one image. Raises InputError for images of different sizes."""
        first = lists[0]
        if any(other.image_size != first.image_size for other in lists):
            raise InputError("Instances of images of different sizes cannot be joined")
        joined = Instances(first.image_size)
        for name, value in first.get_fields().items():
            parts = [other.get(name) for other in lists]
            boxes = isinstance(value, Boxes)
            whole = np.concatenate([part.tensor if boxes else part for part in parts])
            joined.set(name, Boxes(whole) if boxes else array(whole))
        return joined

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("_fields", {})
        if name not in fields:
            raise AttributeError(f"Instances have no field {name!r}; they have {', '.join(fields) or 'none'}")
        return fields[name]

    def __getitem__(self, index: Any) -> Instances:
        """Those that an int, a slice, a mask bool [n] or indices [k] pick; an int gives Instances of one."""
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"there are {len(self)} instances")
            index = slice(int(index), int(index) + 1 or None)
        return Instances(self.image_size, **{name: value[index] for name, value in self.get_fields().items()})

    def __len__(self) -> int:
        for value in self.get_fields().values():
            return len(value)
        return 0

    def __iter__(self) -> Iterator[Instances]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.image_size
        fields = ", ".join(self.get_fields())
        return f"Instances(num_instances={len(self)}, image_height={height}, image_width={width}, fields=[{fields}])"
