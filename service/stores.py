"""The stores of a server: which there are, who may use them, and one folder per tenant where that is configured."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from .config import Settings, StoreSetting
from .errors import NotOffered, PermissionDenied, UnknownName
from .metrics import Metrics
from .models import Models
from .search import SearchService

_PER_TENANT = "{tenant}"
# Whose folder it is where a server has no keys.
_NOBODY = "_"


class Stores:
    """Stores by name, opened once and kept open. What a tenant may not use does not exist for it."""

    def __init__(self, settings: Sequence[StoreSetting], models: Models, metrics: Metrics) -> None:
        self._settings = {setting.name: setting for setting in settings}
        self._models = models
        self._metrics = metrics
        self._open: dict[tuple[str, str], SearchService] = {}
        self._opening = asyncio.Lock()

    @classmethod
    async def opened(cls, settings: Settings, models: Models, metrics: Metrics) -> Stores:
        """Open what has one folder; raises the index's StoreError."""
        listed = list(settings.stores)
        if settings.store is not None:
            listed.insert(0, StoreSetting(name="default", path=str(settings.store)))
        stores = cls(listed, models, metrics)
        try:
            for setting in listed:
                models.kept.add(models.get(setting.model).name)
                if _PER_TENANT not in setting.path:
                    await stores._service(setting, "")
        except BaseException:
            await stores.close()
            raise
        return stores

    def __bool__(self) -> bool:
        return bool(self._settings)

    def __iter__(self) -> Iterator[SearchService]:
        """Those that are open."""
        return iter(list(self._open.values()))

    @property
    def writable(self) -> bool:
        """Whether there is one that clients may change."""
        return any(setting.writable for setting in self._settings.values())

    def names(self, tenant: str) -> list[str]:
        """What a tenant may use."""
        return [s.name for s in self._settings.values() if not s.tenants or tenant in s.tenants]

    async def get(self, name: str, tenant: str, *, write: bool = False) -> SearchService:
        """Return a store.

        Args:
            name: empty for the first that suits.
            tenant: who asks.
            write: whether it is to be changed.

        Raises:
            NotOffered: this server has none.
            UnknownName: there is none of this name for this tenant.
            PermissionDenied: it may only be read.
            StoreError: it cannot be opened.
        """
        if not self._settings:
            raise NotOffered("this server has no store to search: start it with --store DIR")
        own = [self._settings[known] for known in self.names(tenant)]
        fit = [s for s in own if s.name == name] if name else [s for s in own if s.writable or not write] or own
        if not fit:
            choices = ", ".join(s.name for s in own) or "none"
            raise UnknownName(f"there is no store {name[:100]!r} here: choose from {choices}")
        if write and not fit[0].writable:
            raise PermissionDenied(f"the store {fit[0].name} is for reading only: set writable in its configuration")
        return await self._service(fit[0], tenant if _PER_TENANT in fit[0].path else "")

    async def close(self) -> None:
        """Let go of all of them."""
        await asyncio.gather(*(asyncio.to_thread(service.close) for service in self._open.values()))
        self._open.clear()

    async def _service(self, setting: StoreSetting, tenant: str) -> SearchService:
        key = (setting.name, tenant)
        async with self._opening:
            if key not in self._open:
                folder = Path(setting.path.replace(_PER_TENANT, tenant or _NOBODY))
                model = self._models.get(setting.model)
                loop = asyncio.get_running_loop()
                self._open[key] = await asyncio.to_thread(
                    SearchService, folder, model, self._metrics, loop=loop, name=setting.name, writable=setting.writable
                )
        return self._open[key]
