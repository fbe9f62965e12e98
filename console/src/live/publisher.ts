/**
 * What goes out: the stage's canvas as a video track, and music and microphone mixed into one audio track, in the LiveKit
 * room. The library of LiveKit is loaded with this module.
 */
import { ConnectionState, DisconnectReason, Room, RoomEvent, Track, VideoPreset } from "livekit-client";

import { hostToken } from "../api/live";

export type Connection = "off" | "connecting" | "on" | "reconnecting";

const BITRATE = 4_500_000;
const AGAIN = 2000;

export class Publisher {
  private readonly audio = new AudioContext();
  private readonly mix = this.audio.createMediaStreamDestination();
  private music: { element: HTMLAudioElement; node: MediaElementAudioSourceNode } | null = null;
  private microphone: { stream: MediaStream; node: MediaStreamAudioSourceNode } | null = null;
  private room: Room | null = null;
  private wanted = false;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly roomId: string,
    private readonly canvas: HTMLCanvasElement,
    private readonly fps: number,
    private readonly tell: (connection: Connection) => void,
  ) {
    // A source that says nothing keeps the track going, so that a platform hears silence and not nothing.
    const quiet = this.audio.createConstantSource();
    const gain = this.audio.createGain();
    gain.gain.value = 0;
    quiet.connect(gain).connect(this.mix);
    quiet.start();
  }

  get soundIsBlocked(): boolean {
    return this.audio.state !== "running";
  }

  /** After a click: browsers let no page sound before. */
  async unblock(): Promise<void> {
    await this.audio.resume();
    if (this.music) await this.music.element.play().catch(() => undefined);
  }

  async start(): Promise<void> {
    this.wanted = true;
    void this.unblock();
    this.tell("connecting");
    try {
      await this.join();
    } catch (error) {
      this.wanted = false;
      this.tell("off");
      throw error;
    }
  }

  private async join(): Promise<void> {
    const { token, livekit_url } = await hostToken(this.roomId);
    const room = new Room({ adaptiveStream: false, dynacast: false });
    this.room = room;
    room
      .on(RoomEvent.Reconnecting, () => this.tell("reconnecting"))
      .on(RoomEvent.SignalReconnecting, () => this.tell("reconnecting"))
      .on(RoomEvent.Reconnected, () => this.tell("on"))
      .on(RoomEvent.Disconnected, (reason) => {
        if (this.room !== room) return;
        if (!this.wanted || reason === DisconnectReason.DUPLICATE_IDENTITY || reason === DisconnectReason.ROOM_DELETED) {
          this.wanted = false;
          this.tell("off");
          return;
        }
        this.tell("reconnecting");
        this.comeBack();
      });
    await room.connect(livekit_url, token);
    const video = this.canvas.captureStream(this.fps).getVideoTracks()[0];
    const sound = this.mix.stream.getAudioTracks()[0];
    if (!video || !sound) throw new Error("the browser cannot record a canvas");
    const preset = new VideoPreset(this.canvas.width, this.canvas.height, BITRATE, this.fps);
    await room.localParticipant.publishTrack(video, {
      source: Track.Source.Camera,
      name: "stage",
      simulcast: false,
      videoCodec: "vp8",
      videoEncoding: preset.encoding,
      degradationPreference: "maintain-resolution",
    });
    await room.localParticipant.publishTrack(sound.clone(), {
      source: Track.Source.Microphone,
      name: "stage-sound",
      dtx: false,
      red: false,
    });
    if (room.state === ConnectionState.Connected) this.tell("on");
  }

  private comeBack(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (!this.wanted) return;
      this.join().catch(() => this.comeBack());
    }, AGAIN);
  }

  async setMusic(url: string | null): Promise<void> {
    if (this.music) {
      this.music.element.pause();
      this.music.node.disconnect();
      this.music = null;
    }
    if (!url) return;
    const element = new Audio(url);
    element.loop = true;
    const node = this.audio.createMediaElementSource(element);
    const gain = this.audio.createGain();
    gain.gain.value = 0.5;
    node.connect(gain);
    gain.connect(this.mix);
    gain.connect(this.audio.destination);
    this.music = { element, node };
    await element.play().catch(() => undefined);
  }

  async setMicrophone(on: boolean): Promise<void> {
    if (this.microphone) {
      for (const track of this.microphone.stream.getTracks()) track.stop();
      this.microphone.node.disconnect();
      this.microphone = null;
    }
    if (!on) return;
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true } });
    const node = this.audio.createMediaStreamSource(stream);
    node.connect(this.mix);
    this.microphone = { stream, node };
  }

  async stop(): Promise<void> {
    this.wanted = false;
    clearTimeout(this.timer);
    const room = this.room;
    this.room = null;
    await room?.disconnect();
    this.tell("off");
  }

  async dispose(): Promise<void> {
    await this.stop();
    await this.setMusic(null);
    await this.setMicrophone(false);
    await this.audio.close();
  }
}
