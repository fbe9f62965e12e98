"""Texts for hosts: for each code, the event and the advice, in English and Chinese. Pure.

`{platform}` is replaced by the platform's display name. Clients match codes; these texts may change.
"""

from __future__ import annotations

from typing import Literal

from butai.errors import Code

Language = Literal["en", "zh"]

PLATFORM_NAMES = {"youtube": "YouTube", "twitch": "Twitch", "custom": "RTMP"}

_TEXTS: dict[Code, tuple[str, str, str, str]] = {
    Code.NOT_HOST: (
        "You are not the host of this room.",
        "Join with the host's link, or sign in as the room's owner.",
        "你不是这个房间的主播。",
        "请使用主播链接加入，或以房间所有者身份登录。",
    ),
    Code.USER_SUSPENDED: (
        "This account is suspended.",
        "Contact an operator of this service.",
        "该账号已被停用。",
        "请联系本服务的运维人员。",
    ),
    Code.ALREADY_LIVE: (
        "This room is already live.",
        "Open the running stream, or end it before you start another.",
        "这个房间已经在直播。",
        "请打开正在进行的直播，或先结束它再开始新的。",
    ),
    Code.NO_DESTINATION: (
        "No {platform} destination is saved.",
        "Save your {platform} stream key, then add {platform} to the stream.",
        "还没有保存 {platform} 的推流目标。",
        "请先保存 {platform} 的串流密钥，然后把它加入直播。",
    ),
    Code.INVALID_DESTINATION: (
        "The address or key for {platform} cannot be right.",
        "Copy the server URL and the stream key again from {platform}.",
        "{platform} 的地址或密钥无效。",
        "请从 {platform} 重新复制服务器地址和串流密钥。",
    ),
    Code.ENCODER_KEY_REFUSED: (
        "No encoder has this key.",
        "Copy the server and the stream key again into OBS. A key that was replaced or revoked stops working.",
        "没有推流软件使用这个密钥。",
        "请把服务器和串流密钥重新复制到 OBS。被更换或撤销的密钥会失效。",
    ),
    Code.ENCODER_KEY_ENDED: (
        "The key was replaced or revoked while OBS was streaming, or its room was closed.",
        "Copy the new stream key into OBS.",
        "推流期间密钥被更换或撤销，或房间已关闭。",
        "请把新的串流密钥复制到 OBS。",
    ),
    Code.ENCODER_KEY_IN_USE: (
        "Another program is streaming with this key.",
        "Stop streaming there first, or create another key for this program.",
        "另一个程序正在使用这个密钥推流。",
        "请先在那里停止推流，或为这个程序创建另一个密钥。",
    ),
    Code.ENCODER_REPLACED: (
        "A newer connection is streaming with the same key.",
        "If it is not yours, replace the key. Each program needs a key of its own.",
        "一个新的连接正在使用同一密钥推流。",
        "如果不是你本人，请更换密钥。每个程序需要自己的密钥。",
    ),
    Code.KEY_REJECTED: (
        "{platform} refused the stream key.",
        "Copy the key again from {platform}, save it, and retry. A reset key stops working everywhere.",
        "{platform} 拒绝了串流密钥。",
        "请从 {platform} 重新复制密钥并保存，然后重试。重置后旧密钥会全部失效。",
    ),
    Code.LOGIN_REQUIRED: (
        "{platform} asks for a user name and a password.",
        "Butai signs in with a stream key only. Use a server or an address that needs no sign-in beside the key.",
        "{platform} 要求输入用户名和密码。",
        "Butai 只支持串流密钥。请使用除密钥外无需登录的服务器或地址。",
    ),
    Code.REDIRECTED: (
        "{platform} points to another server, which cannot be used.",
        "Copy the server URL again from {platform}, save it, and retry.",
        "{platform} 指向了另一个无法使用的服务器。",
        "请从 {platform} 重新复制服务器地址并保存，然后重试。",
    ),
    Code.ALREADY_PUBLISHING: (
        "{platform} already has a stream with this key.",
        "If yours was just cut off, nothing to do: it is retried automatically. Stop other programs (OBS, another tab).",
        "{platform} 上已有使用这个密钥的直播流。",
        "如果你的直播刚刚中断，无需操作：系统会自动重试。请停止其他程序（OBS 或其他页面）。",
    ),
    Code.DESTINATION_UNREACHABLE: (
        "{platform} cannot be reached.",
        "Nothing to do: it is retried automatically. If it lasts, check the server URL and {platform}'s status page.",
        "无法连接 {platform}。",
        "无需操作：系统会自动重试。如果持续，请检查服务器地址和 {platform} 的状态页。",
    ),
    Code.TLS_FAILED: (
        "The secure connection to {platform} failed.",
        "Check that the server URL is {platform}'s own, spelled right.",
        "与 {platform} 的安全连接失败。",
        "请检查服务器地址是否为 {platform} 官方地址且拼写正确。",
    ),
    Code.DESTINATION_CLOSED: (
        "{platform} closed the connection.",
        "Nothing to do: it reconnects automatically.",
        "{platform} 关闭了连接。",
        "无需操作：系统会自动重连。",
    ),
    Code.DESTINATION_STALLED: (
        "{platform} accepts no data at the moment.",
        "Nothing to do: the stream continues as soon as it does, or reconnects.",
        "{platform} 暂时没有接收数据。",
        "无需操作：恢复后会继续推流，否则自动重连。",
    ),
    Code.RETRIES_EXHAUSTED: (
        "{platform} did not come back; retrying has stopped.",
        "Look at the last error, then retry.",
        "{platform} 一直没有恢复，已停止重试。",
        "请查看最近的错误，然后重试。",
    ),
    Code.PLATFORM_NOT_CONFIRMED: (
        "Data flows, but {platform} does not confirm that you are live.",
        "Look at your {platform} page: the stream may need to be started there.",
        "数据正在发送，但 {platform} 尚未确认直播。",
        "请查看你的 {platform} 页面：可能需要在那里开始直播。",
    ),
    Code.EGRESS_UNAVAILABLE: (
        "The streaming engine could not start.",
        "It is retried automatically. If it lasts, tell an operator.",
        "推流引擎无法启动。",
        "系统会自动重试。如果持续，请联系运维人员。",
    ),
    Code.EGRESS_LOST: (
        "The streaming engine was lost.",
        "Nothing to do: a new one takes over.",
        "推流引擎失去联系。",
        "无需操作：新的引擎会接手。",
    ),
    Code.EGRESS_CRASHED: (
        "The streaming engine stopped.",
        "Nothing to do: a new one takes over.",
        "推流引擎意外停止。",
        "无需操作：新的引擎会接手。",
    ),
    Code.EGRESS_START_TIMEOUT: (
        "{platform} took too long to start.",
        "It is tried once more. After that, retry by hand.",
        "{platform} 启动时间过长。",
        "系统会再试一次，之后请手动重试。",
    ),
    Code.NO_MEDIA: (
        "The studio sends no picture or sound.",
        "Turn on your avatar or camera in the studio (for sound alone, the microphone). If the stream has ended, go live again.",
        "没有收到演播室的画面或声音。",
        "请在演播室打开虚拟形象或摄像头（仅推送声音时打开麦克风）。如果直播已结束，请重新开播。",
    ),
    Code.MEDIA_ENCRYPTED: (
        "The room's video or audio is end-to-end encrypted, so it cannot be streamed.",
        "Turn off end-to-end encryption in the studio, then publish again.",
        "房间的画面或声音启用了端到端加密，无法推流。",
        "请在演播室关闭端到端加密，然后重新发布。",
    ),
    Code.CODEC_UNSUPPORTED: (
        "The studio or encoder sends a codec that cannot be streamed.",
        "In the studio choose VP8, VP9, H.264 or AV1, and Opus; in OBS H.264 and AAC. H.265 (HEVC) is not supported.",
        "演播室或编码器使用的编码格式无法推流。",
        "请在演播室为画面选择 VP8、VP9、H.264 或 AV1，为声音选择 Opus；在 OBS 中请选择 H.264 和 AAC。不支持 H.265（HEVC）。",
    ),
    Code.NO_PICTURE: (
        "The studio publishes video, but no picture arrives.",
        "Turn the avatar or camera off and on again in the studio, or reload its page.",
        "演播室已发布视频，但没有收到画面。",
        "请在演播室重新打开虚拟形象或摄像头，或刷新页面。",
    ),
    Code.SOURCE_ENDED: (
        "The host left, so the stream ended.",
        "Open the studio and go live again.",
        "主播已离开，直播已结束。",
        "请重新打开演播室并开始直播。",
    ),
    Code.TOO_MANY_CONNECTIONS: (
        "Too many encoders are connected at once.",
        "Stop those that you do not need, then start again.",
        "同时连接的编码器过多。",
        "请停止不需要的编码器，然后重新开始。",
    ),
    Code.SOURCE_CLOSED: (
        "The encoder is disconnected. Platforms see the last picture and hear silence.",
        "Start streaming again in OBS, with the same key. The stream goes on by itself.",
        "编码器已断开连接。平台上显示最后一帧画面，没有声音。",
        "请在 OBS 中用同一密钥重新开始推流，直播会自动继续。",
    ),
    Code.SOURCE_QUIET: (
        "The encoder is connected and sends nothing. Platforms see the last picture and hear silence.",
        "Check the encoder and its network. The stream goes on as soon as a picture comes.",
        "编码器已连接，但没有发送数据。平台上显示最后一帧画面，没有声音。",
        "请检查编码器及其网络；收到画面后直播会自动继续。",
    ),
    Code.NO_AUDIO: (
        "The encoder sends no sound, so silence is streamed.",
        "If there should be sound, choose an audio track in OBS (Settings, Output) and check the mixer.",
        "编码器没有发送声音，正在推送静音。",
        "如果应有声音，请在 OBS 的“设置 - 输出”中选择音轨，并检查混音器。",
    ),
    Code.RARE_KEYFRAMES: (
        "The encoder's key frames are more than four seconds apart: viewers wait longer, and {platform} may complain.",
        "Set the keyframe interval to 2 s in OBS (Settings, Output).",
        "编码器的关键帧间隔超过四秒：观众等待更久，{platform} 可能报警。",
        "请在 OBS 的“设置 - 输出”中将关键帧间隔设为 2 秒。",
    ),
    Code.PROFILE_UNUSUAL: (
        "The encoder uses an H.264 profile that {platform} may not take.",
        "Choose the profile high, main or baseline in OBS.",
        "编码器使用的 H.264 配置（profile）可能不被 {platform} 接受。",
        "请在 OBS 中选择 high、main 或 baseline。",
    ),
    Code.CHROMA_UNUSUAL: (
        "The encoder's colour format is not 4:2:0, and {platform} may not take it.",
        "Choose the color format NV12 in OBS (Settings, Advanced).",
        "编码器的色彩格式不是 4:2:0，{platform} 可能无法接受。",
        "请在 OBS 的“设置 - 高级”中将色彩格式设为 NV12。",
    ),
    Code.DEPTH_UNUSUAL: (
        "The encoder sends more than 8 bits for each colour, and {platform} may not take it.",
        "Choose the color format NV12 in OBS (Settings, Advanced).",
        "编码器的色深超过 8 位，{platform} 可能无法接受。",
        "请在 OBS 的“设置 - 高级”中将色彩格式设为 NV12。",
    ),
    Code.INTERLACED: (
        "The encoder sends interlaced video, and {platform} may not take it.",
        "Turn on deinterlacing for the capture device, and choose progressive output.",
        "编码器发送的是隔行扫描视频，{platform} 可能无法接受。",
        "请为采集设备打开去隔行扫描，并选择逐行输出。",
    ),
    Code.SOUND_RATE_UNUSUAL: (
        "The encoder's audio has a sample rate that {platform} may not take.",
        "Choose 48 kHz or 44.1 kHz in OBS (Settings, Audio).",
        "编码器的音频采样率可能不被 {platform} 接受。",
        "请在 OBS 的“设置 - 音频”中选择 48 kHz 或 44.1 kHz。",
    ),
    Code.SOUND_CHANNELS_UNUSUAL: (
        "The encoder's audio is neither mono nor stereo, and {platform} may not take it.",
        "Choose stereo in OBS (Settings, Audio).",
        "编码器的音频既不是单声道也不是立体声，{platform} 可能无法接受。",
        "请在 OBS 的“设置 - 音频”中选择立体声。",
    ),
    Code.SOUND_CODEC_UNUSUAL: (
        "The encoder's audio is a kind of AAC that {platform} may not take.",
        "Choose AAC-LC, which is called just AAC in OBS.",
        "编码器使用的 AAC 类型可能不被 {platform} 接受。",
        "请选择 AAC-LC（在 OBS 中即 AAC）。",
    ),
    Code.CLOCKS_APART: (
        "The encoder's picture and sound have different clocks: they are put together as they arrive.",
        "If lips and voice do not match, set a sync offset in OBS.",
        "编码器的画面与声音时钟不同，系统按到达时间对齐。",
        "如果音画不同步，请在 OBS 中设置同步偏移。",
    ),
    Code.MEDIA_UNREADABLE: (
        "Some of what the encoder sends cannot be read, and was left out.",
        "If it goes on, restart the stream in the encoder, or update it.",
        "编码器发送的部分数据无法读取，已被略去。",
        "如果持续出现，请在编码器中重新开始推流或更新编码器。",
    ),
    Code.ROOM_NOT_FOUND: (
        "There is no such room.",
        "Open the studio again. A room that another program made must be made there again.",
        "房间不存在。",
        "请重新打开演播室；由其他程序创建的房间需在那里重新创建。",
    ),
    Code.LIVEKIT_UNAUTHORIZED: (
        "The media server refuses this service.",
        "Tell an operator: the LiveKit key or secret is wrong.",
        "媒体服务器拒绝了本服务。",
        "请联系运维人员：LiveKit 的密钥有误。",
    ),
    Code.LIVEKIT_UNREACHABLE: (
        "The media server cannot be reached.",
        "It is retried automatically. If it lasts, tell an operator.",
        "无法连接媒体服务器。",
        "系统会自动重试。如果持续，请联系运维人员。",
    ),
    Code.INTERNAL: (
        "Something went wrong here.",
        "It is retried automatically. If it lasts, tell an operator.",
        "服务内部出现错误。",
        "系统会自动重试。如果持续，请联系运维人员。",
    ),
    Code.NO_CAPACITY: (
        "All streaming machines are full.",
        "A stream that is shown as starting begins as soon as one has room, within five minutes. Otherwise go live later.",
        "所有推流服务器都已满负荷。",
        "如果显示正在开始，一有空位就会开播，最多等待五分钟；否则请稍后再开播。",
    ),
    Code.PRESET_LOWERED: (
        "The streaming machine is busy, so your stream has a smaller picture than you chose.",
        "Nothing to do. For the quality that you chose, end the stream and go live again later.",
        "推流服务器繁忙，直播画面低于你选择的画质。",
        "无需操作。如需所选画质，请结束直播并稍后重新开播。",
    ),
    Code.STOP_UNCONFIRMED: (
        "The engine did not confirm the end.",
        "Look at your {platform} page; it ends there by itself.",
        "引擎没有确认结束。",
        "请查看你的 {platform} 页面，直播会自动结束。",
    ),
}

HOST_CODES = frozenset(_TEXTS)
"""Codes that hosts are shown: every code with which an engine, the controller, or a request about an output ends."""


def words(code: str, platform: str | None, language: Language) -> tuple[str, str]:
    """The event and the advice for a code. A code without texts gives itself and an empty string."""
    try:
        texts = _TEXTS[Code(code)]
    except ValueError:
        return code, ""
    first = 2 if language == "zh" else 0
    name = PLATFORM_NAMES.get(platform or "", "平台" if first else "the platform")
    return texts[first].format(platform=name), texts[first + 1].format(platform=name)


def preferred_language(accept: str | None) -> Language:
    """The language that an `Accept-Language` header weighs higher (RFC 9110, 12.5.4); English otherwise."""
    best: tuple[float, Language] = (0.0, "en")
    for part in (accept or "")[:500].split(","):
        tag, _, weight = part.strip().partition(";")
        name = tag.strip().lower().partition("-")[0]
        try:
            value = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if name in ("en", "zh") and value > best[0]:
            best = value, "zh" if name == "zh" else "en"
    return best[1]
