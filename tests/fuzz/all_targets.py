"""Every target by name."""

from tests.fuzz.config_files import CONFIG_FILE
from tests.fuzz.event_streams import EVENT_STREAM
from tests.fuzz.headers import CONTROL_HEADERS
from tests.fuzz.http_heads import REQUEST_HEAD, RESPONSE_HEAD
from tests.fuzz.journal_frames import JOURNAL_FRAMES
from tests.fuzz.redis_replies import REDIS_REPLIES
from tests.fuzz.request_bodies import REQUEST_BODY

TARGETS = {
    target.name: target
    for target in (
        *(REQUEST_HEAD, REQUEST_BODY, EVENT_STREAM, CONFIG_FILE),
        *(JOURNAL_FRAMES, REDIS_REPLIES, CONTROL_HEADERS, RESPONSE_HEAD),
    )
}
