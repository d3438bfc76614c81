"""``[notify.*]``: the ways to reach people. docs/configuration.md is their page."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config_types import HostPort, HttpUrl, Section


class TwilioSection(Section):
    """SMS and calls through Twilio or a carrier that speaks its API. Needs the extra carebell[twilio]."""

    account_sid: str = ""
    auth_token_file: str = ""
    from_number: str = ""
    base_url: HttpUrl = "https://api.twilio.com"
    public_url: HttpUrl = ""
    messaging_service_sid: str = ""
    capability_secret_file: str = ""
    machine_detection: bool = True
    timeout_s: float = Field(10.0, gt=0, le=60)


class AliyunSms(Section):
    """An approved message: ``params`` names its variables and how many characters each may have."""

    code: str
    params: dict[str, int] = Field({})
    sign: str = ""


class AliyunVoice(Section):
    """An approved speech; ``keys``: a digit and the template that is said after it."""

    code: str
    params: dict[str, int] = Field({})
    keys: dict[str, str] = Field({})
    goodbye: str = ""


class AliyunSection(Section):
    """SMS and calls through Alibaba Cloud. Templates by the name of a notice's template, or ``name.language``."""

    access_key_id: str = ""
    access_key_secret_file: str = ""
    sign_name: str = ""
    show_number: str = ""
    callback_token_file: str = ""
    sms_base_url: HttpUrl = "https://dysmsapi.aliyuncs.com"
    voice_base_url: HttpUrl = "https://dyvmsapi.aliyuncs.com"
    timeout_s: float = Field(10.0, gt=0, le=60)
    play_times: int = Field(2, ge=1, le=3)
    speed: int = Field(-100, ge=-500, le=500)
    key_timeout_ms: int = Field(8000, ge=1000, le=10_000)
    sms: dict[str, AliyunSms] = Field({})
    voice: dict[str, AliyunVoice] = Field({})


class RobotSection(Section):
    """A group robot; policies name it in ``chat``."""

    kind: Literal["wecom", "dingtalk", "feishu"]
    key_file: str
    secret_file: str = ""
    base_url: HttpUrl = ""
    style: Literal["text", "markdown"] = "text"


class WebhookSection(Section):
    """An endpoint with Standard Webhooks signatures; policies name it in ``webhook``."""

    url: HttpUrl
    secret_files: tuple[str, ...]
    allowed_networks: tuple[str, ...] = ()


class PushSection(Section):
    """The push service: one of the endpoints of [notify.webhook]."""

    endpoint: str = ""


class EmailSection(Section):
    """SMTP. Needs the extra carebell[email]."""

    host: str = ""
    port: int = Field(587, ge=1, le=65_535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password_file: str = ""
    sender: str = ""
    sender_name: str = "安心铃 carebell"
    timeout_s: float = Field(15.0, gt=0, le=60)


class ModemSection(Section):
    """A GSM modem on a serial port. Needs the extra carebell[modem]."""

    port: str = ""
    baudrate: int = Field(115_200, ge=300, le=4_000_000)
    pin_file: str = ""
    reports: bool = True
    hang_up: bool = True


class AlarmCenterSection(Section):
    """An alarm receiving center that takes SIA DC-09; policies name it in ``webhook``."""

    address: HostPort
    second_address: HostPort = ""
    transport: Literal["tcp", "udp"] = "tcp"
    account: str = Field(pattern=r"^[0-9A-Fa-f]{3,16}$")
    line: str = Field("0", pattern=r"^[0-9A-Fa-f]{1,6}$")
    receiver: str = Field("", pattern=r"^[0-9A-Fa-f]{0,6}$")
    format: Literal["ADM-CID", "SIA-DCS"] = "ADM-CID"
    key_file: str = ""
    timeout_s: float = Field(5.0, gt=0, le=10)
    tries: int = Field(2, ge=1, le=5)
    test_s: float = Field(0.0, ge=0, le=2_678_400)


ProviderName = Literal["twilio", "aliyun", "modem", "robots", "webhook", "push", "email", "dc09"]


class OrderSection(Section):
    """For each medium its providers in the order in which they are tried; those that are left out come behind."""

    voice: tuple[ProviderName, ...] = ()
    sms: tuple[ProviderName, ...] = ()
    email: tuple[ProviderName, ...] = ()
    chat: tuple[ProviderName, ...] = ()
    push: tuple[ProviderName, ...] = ()
    webhook: tuple[ProviderName, ...] = ()


class NotifySection(Section):
    """``alert_url`` is a page of the platform about an alert; ``{id}`` stands for the alert's id. ``replies``: messages
    that people send back reach the gateway, so that messages of alerts ask for one.
    """

    alert_url: HttpUrl = ""
    replies: bool = False
    twilio: TwilioSection = TwilioSection()
    aliyun: AliyunSection = AliyunSection()
    robots: dict[str, RobotSection] = Field({})
    webhook: dict[str, WebhookSection] = Field({})
    push: PushSection = PushSection()
    dc09: dict[str, AlarmCenterSection] = Field({})
    email: EmailSection = EmailSection()
    modem: ModemSection = ModemSection()
    order: OrderSection = OrderSection()
