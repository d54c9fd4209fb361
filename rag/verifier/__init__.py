"""The second reading: question and passage together, before an answer is believed."""
