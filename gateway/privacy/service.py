"""The stage that the configuration in force asks for. A reload replaces it while requests are under way."""

import asyncio
from collections.abc import Callable

from gateway.core.causes import EntityResult
from gateway.privacy.settings import RecognizerSettings
from gateway.privacy.stage import EntityStage
from gateway.supervised import TaskRegistry


class EntityService:
    """Implements the EntityFinder port over at most one stage."""

    def __init__(self, counted: Callable[[EntityResult], None], tasks: TaskRegistry | None = None) -> None:
        self._counted = counted
        self._tasks = tasks or TaskRegistry()
        self._stage: EntityStage | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def configure(self, settings: RecognizerSettings | None) -> None:
        """Run what `settings` say from now on; the same settings leave the process alone."""
        if self._stage is not None:
            if self._stage.settings == settings:
                return
            closing = asyncio.create_task(self._stage.close(), name="entities: close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._stage = None
        if settings is not None:
            self._stage = EntityStage(settings, self._counted, self._tasks)
            self._stage.start()

    @property
    def is_ready(self) -> bool:
        return self._stage is not None and self._stage.is_ready

    async def find(self, text: str) -> EntityResult:
        if self._stage is None:
            self._counted(EntityResult.UNAVAILABLE)
            return EntityResult.UNAVAILABLE
        return await self._stage.find(text)

    async def close(self) -> None:
        self.configure(None)
        await asyncio.gather(*self._closing)
