/**
 * What goes out: the stage's canvas as a video track, and music and microphone mixed into one audio track, in the LiveKit
 * room. The library of LiveKit is loaded with this module. Made by `use-outgoing`.
 */
import {
  ConnectionState,
  DisconnectReason,
  LogLevel,
  Room,
  RoomEvent,
  setLogLevel,
  Track,
  VideoPreset,
  type LocalVideoTrack,
} from "livekit-client";

import { hostToken } from "../api/live";

/** `elsewhere`: the host is on stage in another tab, or with another program. */
export type Connection = "off" | "connecting" | "on" | "reconnecting" | "elsewhere";

export interface Picture {
  width: number;
  height: number;
  fps: number;
  bitrate: number;
}

const AGAIN = 2000;

setLogLevel(LogLevel.warn);

export class Publisher {
  private readonly audio = new AudioContext();
  private readonly mix = this.audio.createMediaStreamDestination();
  private readonly loudness = this.audio.createGain();
  private music: { element: HTMLAudioElement; node: MediaElementAudioSourceNode } | null = null;
  private microphone: { stream: MediaStream; node: MediaStreamAudioSourceNode } | null = null;
  /** Counts what was asked of the microphone: the browser answers when it likes. */
  private asked = 0;
  private room: Room | null = null;
  private video: LocalVideoTrack | null = null;
  private wanted = false;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly roomId: string,
    private readonly canvas: HTMLCanvasElement,
    private picture: Picture,
    private readonly tell: (connection: Connection) => void,
  ) {
    // A source that says nothing keeps the track going, so that a platform hears silence and not nothing.
    const quiet = this.audio.createConstantSource();
    const gain = this.audio.createGain();
    gain.gain.value = 0;
    quiet.connect(gain).connect(this.mix);
    quiet.start();
    this.loudness.connect(this.mix);
    this.loudness.connect(this.audio.destination);
  }

  get soundIsBlocked(): boolean {
    return this.audio.state !== "running";
  }

  /** After a click: browsers let no page sound before. */
  async unblock(): Promise<void> {
    await this.audio.resume();
    if (this.music) await this.music.element.play().catch(() => undefined);
  }

  /** Joins and publishes, and from then on comes back by itself. Throws when the first try fails. */
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
    if (!this.wanted) return;
    const room = new Room({ adaptiveStream: false, dynacast: false });
    this.room = room;
    room
      .on(RoomEvent.Reconnecting, () => this.tell("reconnecting"))
      .on(RoomEvent.SignalReconnecting, () => this.tell("reconnecting"))
      .on(RoomEvent.Reconnected, () => this.tell("on"));
    try {
      await room.connect(livekit_url, token);
      await this.publish(room);
    } catch (error) {
      if (this.room === room) this.room = null;
      await room.disconnect();
      throw error;
    }
    if (this.room !== room) return void room.disconnect();
    room.on(RoomEvent.Disconnected, (reason) => {
      if (this.room !== room) return;
      this.room = null;
      if (reason === DisconnectReason.DUPLICATE_IDENTITY) {
        // Whoever came later has the stage: two that come back by turns would both have nothing.
        this.wanted = false;
        this.tell("elsewhere");
      } else if (reason === DisconnectReason.PARTICIPANT_REMOVED || reason === DisconnectReason.ROOM_DELETED) {
        this.wanted = false;
        this.tell("off");
      } else if (this.wanted) {
        this.tell("reconnecting");
        this.comeBack();
      }
    });
    if (room.state === ConnectionState.Connected) this.tell("on");
    else this.comeBack();
  }

  private async publish(room: Room): Promise<void> {
    await this.publishPicture(room);
    const sound = this.mix.stream.getAudioTracks()[0];
    if (!sound) throw new Error("the browser cannot mix sound");
    await room.localParticipant.publishTrack(sound.clone(), {
      source: Track.Source.Microphone,
      name: "stage-sound",
      dtx: false,
      red: false,
    });
  }

  private async publishPicture(room: Room): Promise<void> {
    const { width, height, fps, bitrate } = this.picture;
    const track = this.canvas.captureStream(fps).getVideoTracks()[0];
    if (!track) throw new Error("the browser cannot record a canvas");
    const published = await room.localParticipant.publishTrack(track, {
      source: Track.Source.Camera,
      name: "stage",
      simulcast: false,
      videoCodec: "vp8",
      videoEncoding: new VideoPreset(width, height, bitrate, fps).encoding,
      degradationPreference: "maintain-resolution",
    });
    this.video = published.videoTrack ?? null;
  }

  private comeBack(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.wanted) this.join().catch(() => this.comeBack());
    }, AGAIN);
  }

  /** The canvas has another size: what is encoded is made anew. */
  async setPicture(picture: Picture): Promise<void> {
    this.picture = picture;
    const { room, video } = this;
    if (!room || !video || room.state !== ConnectionState.Connected) return;
    this.video = null;
    await room.localParticipant.unpublishTrack(video);
    await this.publishPicture(room);
  }

  setVolume(volume: number): void {
    this.loudness.gain.value = volume;
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
    node.connect(this.loudness);
    this.music = { element, node };
    await element.play().catch((error: unknown) => {
      // Not allowed to sound yet is told elsewhere; a file that is none is told here.
      if (this.music?.element === element && element.error) throw error;
    });
  }

  async setMicrophone(on: boolean): Promise<void> {
    const mine = ++this.asked;
    if (this.microphone) {
      for (const track of this.microphone.stream.getTracks()) track.stop();
      this.microphone.node.disconnect();
      this.microphone = null;
    }
    if (!on) return;
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true },
    });
    if (mine !== this.asked) {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    const node = this.audio.createMediaStreamSource(stream);
    node.connect(this.mix);
    this.microphone = { stream, node };
  }

  async stop(): Promise<void> {
    this.wanted = false;
    clearTimeout(this.timer);
    const room = this.room;
    this.room = null;
    this.video = null;
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
