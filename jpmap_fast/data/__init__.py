"""Reading and writing pictures."""

from jpmap_fast.data.any_size import Pictures, load_pictures
from jpmap_fast.data.digits import mnist_test_digits
from jpmap_fast.data.example_photograph import photograph
from jpmap_fast.data.example_portrait import portrait
from jpmap_fast.data.marks import load_kernel, load_mask
from jpmap_fast.data.picture import Picture
from jpmap_fast.data.pictures import read_pictures
from jpmap_fast.data.readers import ImageSet, load_images

__all__ = [
    "ImageSet",
    "Picture",
    "Pictures",
    "load_images",
    "load_kernel",
    "load_mask",
    "load_pictures",
    "mnist_test_digits",
    "photograph",
    "portrait",
    "read_pictures",
]
