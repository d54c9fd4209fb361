"""Training: from texts and pairs to an encoder folder, in resumable steps that recipes describe."""
