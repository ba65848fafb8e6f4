"""Where a tensor of a model stands in a PyTorch state dict."""

from typing import NamedTuple


class TorchTensor(NamedTuple):
    """Where one variable of a model stands in a PyTorch state dict.

    Attributes:
      name: in the state dict; several names for tensors that are stacked along the first axis.
      shape: in the state dict, where it is another than the layout rule gives.
      per_slot: the source keeps one per place in the batch, [batch, …]; the first one counts.
      hint: what to do when it is missing.
    """

    name: str | tuple[str, ...]
    shape: tuple[int, ...] | None = None
    per_slot: bool = False
    hint: str = ""

    @staticmethod
    def expand(table, count: int) -> dict[str, "TorchTensor"]:
        """Write out pairs of our path and a name or TorchTensor.

        '{i}' in our path stands for each of 0 … count - 1; in theirs, '{i}' for the same number
        and '{n}' for one more.
        """
        names = {}
        for ours, theirs in table:
            place = theirs if isinstance(theirs, TorchTensor) else TorchTensor(theirs)
            for i in range(count if "{i}" in ours else 1):
                names[ours.format(i=i)] = place._numbered(i)
        return names

    def _numbered(self, i: int) -> "TorchTensor":
        if isinstance(self.name, str):
            return self._replace(name=self.name.format(i=i, n=i + 1))
        return self._replace(name=tuple(name.format(i=i, n=i + 1) for name in self.name))
