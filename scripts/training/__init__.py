"""Training: configuration, networks, augmentation, distillation, reports."""
