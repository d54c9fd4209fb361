"""XC-Cache (Monteiro et al. 2024, arXiv 2404.15420): a frozen decoder cross-attends to cached states of passages."""
