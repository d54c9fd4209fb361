from __future__ import annotations

from unittest.mock import MagicMock

import pytest
import torch

from decant.embedder import ModelError
from decant.embedder.device import choose_device, choose_dtype


def test_a_device_that_is_not_there_is_named() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "nonsense"):
        with pytest.raises(ModelError, match=f"device {name} cannot be used"):
            choose_device(name)


@pytest.mark.parametrize("multiplies", [True, False])
def test_bfloat16_where_the_gpu_itself_multiplies_it(monkeypatch: pytest.MonkeyPatch, multiplies: bool) -> None:
    cuda, device = MagicMock(), torch.device("cuda", 1)
    cuda.is_bf16_supported.return_value = multiplies
    monkeypatch.setattr(torch.cuda, "device", cuda.device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", cuda.is_bf16_supported)
    assert choose_dtype(None, device) is (torch.bfloat16 if multiplies else torch.float32)
    cuda.device.assert_called_once_with(device)
    cuda.is_bf16_supported.assert_called_once_with(including_emulation=False)
    assert choose_dtype("fp16", device) is torch.float16
