"""ResNet-9 ("Davidnet") on CIFAR-10."""
