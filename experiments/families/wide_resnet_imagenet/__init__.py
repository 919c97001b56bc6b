"""Wide ResNet (WRN-50-2-bottleneck) on ImageNet."""
