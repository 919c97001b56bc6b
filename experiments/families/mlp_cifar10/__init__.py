"""MLPs on CIFAR-10: SGD, ReLU and tanh, and all that lies between SP and µP."""
