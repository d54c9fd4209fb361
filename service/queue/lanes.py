"""Who is next: waiting texts by priority and tenant, bounded by tokens and by requests.

Tenants share by start-time fair queueing (Goyal, Vin and Cheng, 1996): each has a virtual clock that advances by the
tokens it was served, and the clock that is furthest behind goes next. With texts of equal length that is round robin;
with unequal ones nobody gains by sending long texts. A data structure without threads or time: `BatchQueue` has both.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

from ...embedder.errors import InputError
from ..errors import Overloaded


class Priority(IntEnum):
    """Which texts go first; all of `QUERY` before any of `BULK`, but for the share that keeps bulk work alive."""

    QUERY = 0
    BULK = 1


# One batch in this many begins with bulk work if there is any, so that queries without end cannot starve it.
BULK_TURN = 8
# Idle tenants whose clocks are kept; beyond it those that have nothing to gain from being remembered are forgotten.
IDLE_TENANTS = 1024


class Work(Protocol):
    """One text, ready to be encoded."""

    @property
    def tokens(self) -> int:
        """What it costs."""
        ...

    @property
    def key(self) -> Hashable:
        """Only works of equal keys can share a batch."""
        ...


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Limits:
    """How much may wait, and how much runs at once.

    Attributes:
        queued_tokens: most tokens waiting; a request that alone has more is never taken.
        queued_requests: most requests waiting.
        batch_tokens: token budget of one batch; a longer text gets a batch of its own.
        batch_seconds: batches are made smaller where, at the speed measured, they would take longer: what arrives
            meanwhile waits for the batch to end. Where much waits already they may take up to twice as long.
        tenant_tokens: most tokens waiting of the tenants named here.
        query_seconds: no query is taken while those before it would, at the speed measured, take longer.
        bulk_seconds: the same for bulk work, behind all that waits.
        niceness: how far the computing thread stands back behind the event loop where both want a processor; 0 to 19.
    """

    queued_tokens: int = 524_288
    queued_requests: int = 1024
    batch_tokens: int = 4096
    batch_seconds: float = 0.2
    tenant_tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    query_seconds: float = 1.0
    bulk_seconds: float = 30.0
    niceness: int = 0


@dataclass(eq=False)
class Request(Generic[W]):
    """The waiting part of one call.

    Attributes:
        waiting: (position in the call, work), the next one first.
        deadline: by the monotonic clock; None for no limit.
    """

    waiting: deque[tuple[int, W]]
    tenant: str = ""
    priority: Priority = Priority.BULK
    deadline: float | None = None
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = sum(work.tokens for _, work in self.waiting)


@dataclass(eq=False)
class _Flow(Generic[W]):
    """One tenant's requests of one priority."""

    tenant: str
    clock: float = 0.0
    requests: deque[Request[W]] = field(default_factory=deque[Request[W]])


class Lanes(Generic[W]):
    """Everything that waits. Not safe to share between threads without a lock.

    Attributes:
        limits: how much may wait.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._flows: dict[Priority, dict[str, _Flow[W]]] = {priority: {} for priority in Priority}
        self._turns: dict[Priority, list[tuple[float, int, _Flow[W]]]] = {priority: [] for priority in Priority}
        self._clocks = dict.fromkeys(Priority, 0.0)
        self._tokens = dict.fromkeys(Priority, 0)
        self._requests = dict.fromkeys(Priority, 0)
        self._tenant_tokens: Counter[str] = Counter()
        self._reserved_tokens = self._reserved_requests = 0
        self._arrivals = 0
        self._batches_without_bulk = 0

    def tokens(self, priority: Priority | None = None) -> int:
        """Tokens that wait, those reserved included where no priority is named."""
        return sum(self._tokens.values()) + self._reserved_tokens if priority is None else self._tokens[priority]

    def requests(self, priority: Priority | None = None) -> int:
        """Requests of which something waits, counted as in `tokens`."""
        return sum(self._requests.values()) + self._reserved_requests if priority is None else self._requests[priority]

    def ahead(self, priority: Priority) -> int:
        """Tokens that come before a new request of this priority, those reserved included."""
        return sum(self._tokens[p] for p in Priority if p <= priority) + self._reserved_tokens

    def reserve(self, tokens: int, tenant: str = "") -> None:
        """Hold room for a request whose exact size is not known yet.

        Raises:
            Overloaded: there is no room; `retry_after` is left to the caller, who knows the speed.
            InputError: there will never be.
        """
        self._check(tokens, tenant)
        self._reserved_tokens += tokens
        self._reserved_requests += 1
        self._count(tenant, tokens)

    def release(self, tokens: int, tenant: str = "") -> None:
        """Give back what `reserve` held."""
        self._reserved_tokens -= tokens
        self._reserved_requests -= 1
        self._count(tenant, -tokens)

    def add(self, request: Request[W]) -> None:
        """Let a request wait its turn; raises as `reserve` does."""
        self._check(request.tokens, request.tenant)
        priority = request.priority
        flow = self._flows[priority].get(request.tenant)
        if flow is None:
            self._forget_idle(priority)
            flow = self._flows[priority][request.tenant] = _Flow(request.tenant)
        flow.requests.append(request)
        self._tokens[priority] += request.tokens
        self._count(request.tenant, request.tokens)
        self._requests[priority] += 1
        if len(flow.requests) == 1:
            # Who was idle starts now; time not used is not saved up.
            flow.clock = max(flow.clock, self._clocks[priority])
            self._enter(priority, flow)

    def remove(self, request: Request[W]) -> bool:
        """Take out what still waits of a request; False if nothing did."""
        flow = self._flows[request.priority].get(request.tenant)
        if flow is None or request not in flow.requests:
            return False
        flow.requests.remove(request)
        self._leave(request)
        request.waiting.clear()
        if not flow.requests:
            turns = self._turns[request.priority]
            turns[:] = [turn for turn in turns if turn[2] is not flow]
            heapq.heapify(turns)
        return True

    def take(self, now: float, budget_tokens: int | None = None) -> list[tuple[Request[W], int, W]]:
        """The next batch: works of one key within the token budget, the limits' own if None; empty if nothing waits.

        A request whose deadline has passed is taken out and not computed.
        """
        order: Sequence[Priority] = tuple(Priority)
        if self._requests[Priority.BULK] and self._batches_without_bulk >= BULK_TURN - 1:
            order = order[::-1]
        batch: list[tuple[Request[W], int, W]] = []
        for priority in order:
            self._fill(batch, priority, now, budget_tokens or self.limits.batch_tokens)
        if batch:
            bulk = any(request.priority is Priority.BULK for request, _, _ in batch)
            self._batches_without_bulk = 0 if bulk else self._batches_without_bulk + 1
        return batch

    def _fill(self, batch: list[tuple[Request[W], int, W]], priority: Priority, now: float, budget: int) -> None:
        """Add what fits from one priority, the tenant that is furthest behind first."""
        turns = self._turns[priority]
        aside: list[_Flow[W]] = []
        used = sum(work.tokens for _, _, work in batch)
        while turns:
            _, _, flow = heapq.heappop(turns)
            request = flow.requests[0]
            if request.deadline is not None and request.deadline <= now:
                flow.requests.popleft()
                self._leave(request)
                request.waiting.clear()
            else:
                index, work = request.waiting[0]
                if batch and (work.key != batch[0][2].key or used + work.tokens > budget):
                    aside.append(flow)
                    continue
                self._pop(flow, request, work)
                batch.append((request, index, work))
                used += work.tokens
            if flow.requests:
                self._enter(priority, flow)
        for flow in aside:
            self._enter(priority, flow)

    def _pop(self, flow: _Flow[W], request: Request[W], work: W) -> None:
        request.waiting.popleft()
        request.tokens -= work.tokens
        self._tokens[request.priority] -= work.tokens
        self._count(request.tenant, -work.tokens)
        self._clocks[request.priority] = flow.clock
        flow.clock += work.tokens
        if not request.waiting:
            flow.requests.popleft()
            self._requests[request.priority] -= 1

    def _leave(self, request: Request[W]) -> None:
        self._tokens[request.priority] -= request.tokens
        self._requests[request.priority] -= 1
        self._count(request.tenant, -request.tokens)
        request.tokens = 0

    def _enter(self, priority: Priority, flow: _Flow[W]) -> None:
        self._arrivals += 1
        heapq.heappush(self._turns[priority], (flow.clock, self._arrivals, flow))

    def _forget_idle(self, priority: Priority) -> None:
        flows = self._flows[priority]
        if len(flows) >= IDLE_TENANTS:
            clock = self._clocks[priority]
            for tenant in [t for t, flow in flows.items() if not flow.requests and flow.clock <= clock]:
                del flows[tenant]

    def _count(self, tenant: str, tokens: int) -> None:
        if tenant in self.limits.tenant_tokens:
            self._tenant_tokens[tenant] += tokens

    def _check(self, tokens: int, tenant: str) -> None:
        most = self.limits.queued_tokens
        own = min(self.limits.tenant_tokens.get(tenant, most), most)
        if tokens > own:
            raise InputError(
                f"the request has about {tokens:,} tokens, this server takes {own:,} at once: "
                "send fewer texts per request"
            )
        if self._tenant_tokens[tenant] + tokens > own:
            waiting = self._tenant_tokens[tenant]
            raise Overloaded(f"{waiting:,} tokens of {tenant} are waiting, {own:,} may: try again later", 0.0)
        if self.requests() >= self.limits.queued_requests:
            raise Overloaded(f"{self.requests():,} requests are waiting, no more are taken: try again later", 0.0)
        if self.tokens() + tokens > self.limits.queued_tokens:
            raise Overloaded(f"{self.tokens():,} tokens are waiting, {tokens:,} more do not fit: try again later", 0.0)
