"""Schema of where bytes may go: `zones` and `privacy`."""

from typing import Annotated, Any, Final

from pydantic import Field

from gateway.config.detectors import Detection, Detector, Entities, Media
from gateway.config.images import Images
from gateway.config.kinds import AllowBlank, Flag, Name, Section
from gateway.config.urls import Cidr

STANDARD_CLASSES: Final = ("public", "internal", "confidential", "restricted")
HOME_ZONE: Final = "local"


class Zone(Section):
    cidrs: tuple[Cidr, ...] = Field(
        default=(), description="networks in which every address of the zone must lie; left out: any address"
    )
    own: Flag | None = Field(
        default=None,
        description="whether what runs there is the company's own, and may see a caller's trace id and "
        "`tracestate`; left out: if it has `cidrs` and all are private",
    )


class Privacy(Section):
    classes: tuple[Name, ...] = Field(
        default=STANDARD_CLASSES, description="privacy classes, least to most sensitive", min_length=1
    )
    default: Name = Field(default="internal", description="class of a request that nothing labels")
    zones: Annotated[dict[Name, tuple[Name, ...]], AllowBlank] = Field(
        description="for each class the zones that its requests may reach; an empty list allows none"
    )
    detect: tuple[Detection, ...] = Field(default=(), description="content that raises the class")
    detectors: Annotated[dict[Name, Detector], AllowBlank] = Field(
        default={}, description="detectors of your own, and allow-lists of built-in ones, by name"
    )
    media: Media = Field(default=Media(), description="content that no detector reads")
    images: Images | None = Field(
        default=None, description="images named by their address, which the gateway is to fetch"
    )
    entities: Entities | None = Field(
        default=None, description="second stage: named entities, for the features that ask for it"
    )


def default_privacy(zones: dict[str, Any]) -> Privacy:
    """Privacy of a file that says nothing: the two lower classes may go anywhere declared, the two upper
    ones only to a zone named `local`, and nowhere when there is none."""
    anywhere = tuple(zones)
    home = tuple(name for name in anywhere if name == HOME_ZONE)
    return Privacy(zones={"public": anywhere, "internal": anywhere, "confidential": home, "restricted": home})
