"""The embedded corpus: a small sign grammar performed by skeletons, in the users' own file formats."""

from uni_sign.data.demo.write import generate

__all__ = ["generate"]
