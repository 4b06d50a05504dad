"""Reading images."""

from jpmap_fast.data.digits import mnist_test_digits
from jpmap_fast.data.portrait import portrait
from jpmap_fast.data.readers import ImageSet, load_images

__all__ = ["ImageSet", "load_images", "mnist_test_digits", "portrait"]
