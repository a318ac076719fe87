"""The whole configuration: the sections of the file, each owned by the package that obeys it."""

from pydantic import Field

from mailfront.base.settings import Settings
from mailfront.cluster.settings import NodeSettings, StorageSettings
from mailfront.config.settings import LimitsSettings, ServerSettings
from mailfront.delivery.outbound_settings import OutboundSettings
from mailfront.delivery.route_settings import RouteSettings
from mailfront.delivery.settings import DeliverySettings
from mailfront.directory.settings import DirectorySettings
from mailfront.filters.registry import AnyFilterSettings
from mailfront.intake.settings import DomainsSettings, IntakeSettings, PostmasterSettings
from mailfront.net.settings import ListenSettings, NodeTlsSettings, TlsSettings
from mailfront.queue.settings import QueueSettings
from mailfront.sessions.settings import LoginSettings


class Configuration(Settings):
    """One configuration file, read and found sound. A value: a reload makes another one."""

    server: ServerSettings
    listen: tuple[ListenSettings, ...] = Field(min_length=1, strict=False)
    tls: TlsSettings | None = None
    domains: DomainsSettings
    postmaster: PostmasterSettings
    directory: DirectorySettings
    storage: StorageSettings
    node_tls: NodeTlsSettings = NodeTlsSettings()
    node: tuple[NodeSettings, ...] = Field(strict=False)
    filter: tuple[AnyFilterSettings, ...] = Field(default=(), strict=False)
    intake: IntakeSettings = IntakeSettings()
    delivery: DeliverySettings = DeliverySettings()
    queue: QueueSettings = QueueSettings()
    route: tuple[RouteSettings, ...] = Field(default=(), strict=False)
    outbound: OutboundSettings = OutboundSettings()
    login: LoginSettings = LoginSettings()
    limits: LimitsSettings = LimitsSettings()
