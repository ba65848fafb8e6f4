"""Data sets that can be prepared from their original archives, one file a kind."""

from jax_train.data.sources.archives.cifar import CIFAR10, CIFAR100
from jax_train.data.sources.archives.flowers import FLOWERS
from jax_train.data.sources.archives.food101 import FOOD101
from jax_train.data.sources.archives.imagenette import IMAGENETTE
from jax_train.data.sources.archives.mnist import FASHION_MNIST, MNIST
from jax_train.data.sources.archives.pets import PETS
from jax_train.data.sources.archives.recipe import PhotoRecipe, Recipe
from jax_train.data.sources.archives.svhn import SVHN

# By their names in TFDS. Images of one size become records of TFDS, photos a folder of files.
RECIPES: dict[str, Recipe] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "svhn_cropped": SVHN,
}
PHOTOS: dict[str, PhotoRecipe] = {
    "oxford_flowers102": FLOWERS,
    "oxford_iiit_pet": PETS,
    "food101": FOOD101,
    "imagenette": IMAGENETTE,
}
