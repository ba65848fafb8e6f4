"""Encoded images as records of tensorflow-datasets, in the array_record format."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jax_train.data.sources.tfds_folder import quiet_tfds


def write(
    root: Path, splits: Mapping[str, Sequence[tuple[Path, int]]], class_names: Sequence[str]
) -> str:
    """Write files of images as a data set below TFDS's data folder; return its name.

    Args:
      root: the data folder.
      splits: name -> path and class of each image.
      class_names: of the classes.
    """
    with quiet_tfds() as tfds:
        tfds.disable_progress_bar()

        class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            """Images of many sizes."""

            name, VERSION = "photos", tfds.core.Version("1.0.0")

            def _info(self):
                label = tfds.features.ClassLabel(names=list(class_names))
                features = {"image": tfds.features.Image(), "label": label}
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, _):
                return {name: self._generate_examples(files) for name, files in splits.items()}

            def _generate_examples(self, files):
                for number, (path, label) in enumerate(files):
                    yield number, {"image": path.read_bytes(), "label": label}

            def _log_download_bytes(self):
                pass

            _log_download_done = _log_download_bytes

        Photos(data_dir=root).download_and_prepare(file_format="array_record")
    return Photos.name
