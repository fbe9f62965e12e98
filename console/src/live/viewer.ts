/**
 * A room as a viewer has it: the host's picture and sound, and what is true about them. LiveKit's library is loaded with this
 * module. What others in the room send is neither seen nor heard here.
 */
import {
  ConnectionState,
  DisconnectReason,
  Room,
  RoomEvent,
  Track,
  type RemoteParticipant,
  type RemoteTrack,
  type RemoteTrackPublication,
} from "livekit-client";

import { ApiError } from "../api/http";
import type { Joining } from "../api/watch";
import { stateAfter } from "./refusal";

export type Watching =
  | "joining"
  | "waiting"
  | "live"
  | "paused"
  | "sound"
  | "reconnecting"
  | "closed"
  | "elsewhere"
  | "removed"
  | "refused"
  | "failed";

export interface Seen {
  state: Watching;
  /** The browser lets no page sound before a click. */
  blocked: boolean;
  error: ApiError | null;
}

/** Milliseconds between two tries to join again. */
const AGAIN = 3000;

export class Viewer {
  private room: Room | null = null;
  private over = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private host = "";
  private seen: Seen = { state: "joining", blocked: false, error: null };

  constructor(
    private readonly join: () => Promise<Joining>,
    private readonly video: HTMLVideoElement,
    private readonly sound: HTMLAudioElement,
    private readonly tell: (seen: Seen) => void,
  ) {
    void this.enter();
  }

  private say(change: Partial<Seen>): void {
    if (this.over) return;
    this.seen = { ...this.seen, ...change };
    this.tell(this.seen);
  }

  private async enter(): Promise<void> {
    let joining: Joining;
    try {
      joining = await this.join();
    } catch (error) {
      if (this.over) return;
      const known = error instanceof ApiError ? error : new ApiError(0, "unreachable", String(error));
      this.say({ state: stateAfter(known), error: known });
      if (known.isPassing) this.later(known.retryAfter);
      return;
    }
    if (this.over) return;
    this.host = joining.host_identity;
    // As large as it is shown, and nothing while it is not seen.
    const room = new Room({ adaptiveStream: true, dynacast: false });
    this.room = room;
    const look = () => this.look();
    room
      .on(RoomEvent.TrackPublished, (publication, participant) => this.take(publication, participant))
      .on(RoomEvent.TrackSubscribed, (track, _publication, participant) => this.show(track, participant))
      .on(RoomEvent.TrackUnsubscribed, (track) => {
        track.detach();
        look();
      })
      .on(RoomEvent.TrackUnpublished, look)
      .on(RoomEvent.TrackMuted, look)
      .on(RoomEvent.TrackUnmuted, look)
      .on(RoomEvent.ParticipantConnected, look)
      .on(RoomEvent.ParticipantDisconnected, look)
      .on(RoomEvent.Reconnecting, () => this.say({ state: "reconnecting" }))
      .on(RoomEvent.SignalReconnecting, () => this.say({ state: "reconnecting" }))
      .on(RoomEvent.Reconnected, look)
      .on(RoomEvent.AudioPlaybackStatusChanged, () => this.say({ blocked: !room.canPlaybackAudio }))
      .on(RoomEvent.Disconnected, (reason) => this.left(room, reason));
    try {
      await room.connect(joining.livekit_url, joining.token, { autoSubscribe: false });
    } catch {
      if (this.room === room) this.room = null;
      this.say({ state: "failed", error: null });
      this.later();
      return;
    }
    if (this.over) {
      void room.disconnect();
      return;
    }
    for (const participant of room.remoteParticipants.values())
      for (const publication of participant.trackPublications.values()) this.take(publication, participant);
    this.say({ error: null });
    this.look();
  }

  private take(publication: RemoteTrackPublication, participant: RemoteParticipant): void {
    if (participant.identity !== this.host) return;
    publication.setSubscribed(true);
    this.look();
  }

  private show(track: RemoteTrack, participant: RemoteParticipant): void {
    if (participant.identity !== this.host) return;
    if (track.kind === Track.Kind.Video) {
      track.attach(this.video);
    } else {
      track.attach(this.sound);
      // Whoever has clicked has clicked for what comes later, too.
      this.sound.play().then(
        () => this.say({ blocked: false }),
        () => this.say({ blocked: true }),
      );
    }
    this.look();
  }

  private look(): void {
    const { room } = this;
    if (!room || room.state !== ConnectionState.Connected) return;
    const host = room.remoteParticipants.get(this.host);
    const sent = host ? [...host.trackPublications.values()] : [];
    const picture = sent.find((one) => one.kind === Track.Kind.Video);
    if (picture) this.say({ state: picture.isMuted ? "paused" : "live" });
    else this.say({ state: sent.some((one) => one.kind === Track.Kind.Audio && !one.isMuted) ? "sound" : "waiting" });
  }

  private left(room: Room, reason: DisconnectReason | undefined): void {
    if (this.over || this.room !== room) return;
    this.room = null;
    if (reason === DisconnectReason.DUPLICATE_IDENTITY || reason === DisconnectReason.PARTICIPANT_REMOVED) {
      this.say({ state: reason === DisconnectReason.DUPLICATE_IDENTITY ? "elsewhere" : "removed" });
      return;
    }
    const closed = reason === DisconnectReason.ROOM_DELETED || reason === DisconnectReason.ROOM_CLOSED;
    this.say({ state: closed ? "closed" : "reconnecting" });
    if (!closed) this.later();
  }

  /** `seconds`: what the service wants to be left alone for. */
  private later(seconds = 0): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.enter(), Math.max(AGAIN, seconds * 1000));
  }

  /** By hand, when it has ended. */
  again(): void {
    if (this.room || this.over) return;
    clearTimeout(this.timer);
    this.say({ state: "joining", error: null });
    void this.enter();
  }

  /** After a click. */
  async allowSound(): Promise<void> {
    await this.room?.startAudio().catch(() => undefined);
    await this.sound.play().catch(() => undefined);
    this.say({ blocked: this.room ? !this.room.canPlaybackAudio : this.sound.paused });
  }

  dispose(): void {
    this.over = true;
    clearTimeout(this.timer);
    void this.room?.disconnect();
    this.room = null;
  }
}
