/** The stage's canvas and its sound, made of what was chosen, and the way out of both into the room. Used by the stage's page. */
import { useCallback, useEffect, useEffectEvent, useReducer, useRef, useState, type RefObject } from "react";

import type { Scene } from "../three/scene";
import { claimStage, pictureOf, releaseStage, setOnStage, wasOnStage, type Choice } from "./choice";
import type { Connection, Publisher } from "./publisher";
import { sendsFullRange } from "./range";
import { troublesAfter, type Trouble } from "./troubles";

export interface Outgoing {
  connection: Connection;
  /** Whether the stage can be stepped on. */
  ready: boolean;
  avatar: "none" | "loading" | "shown";
  troubles: Trouble[];
  soundBlocked: boolean;
  /** Pictures drawn in a second, while those are far fewer than are wanted; else null. */
  slow: number | null;
  step: () => Promise<void>;
  leave: () => Promise<void>;
}

/** How long it has to be too slow before that is told, in seconds. */
const PATIENCE = 6;

export function useOutgoing(
  canvas: RefObject<HTMLCanvasElement | null>,
  room: string,
  choice: Choice,
  avatar: string | null,
  onAir: boolean,
): Outgoing {
  const scene = useRef<Scene>(null);
  const publisher = useRef<Publisher>(null);
  const [connection, setConnection] = useState<Connection>("off");
  const [ready, setReady] = useState(false);
  /** The avatar that was loaded last, and whether that went well. */
  const [loaded, setLoaded] = useState<{ url: string; well: boolean } | null>(null);
  const [soundBlocked, setSoundBlocked] = useState(false);
  const [slow, setSlow] = useState<number | null>(null);
  const [troubles, tellTrouble] = useReducer(troublesAfter, []);
  const picture = pictureOf(choice);
  const { width, height, fps } = picture;
  const latest = useEffectEvent(() => picture);

  /** Does it, and remembers what became of it. */
  const attempt = useCallback(async (what: Trouble["what"], work: () => Promise<unknown> | undefined) => {
    tellTrouble({ kind: "begun", what });
    try {
      await work();
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return;
      tellTrouble({ kind: "failed", what, error });
    }
  }, []);

  useEffect(() => {
    let over = false;
    void attempt("3d", async () => {
      const [{ Scene: Drawn }, { Publisher: Sender }] = await Promise.all([
        import("../three/scene"),
        import("./publisher"),
      ]);
      if (over || !canvas.current) return;
      const first = latest();
      scene.current = new Drawn(canvas.current, first, first.fps);
      publisher.current = new Sender(room, canvas.current, first, setConnection);
      setReady(true);
      const full = await sendsFullRange();
      if (full && !over) scene.current?.compress();
    });
    return () => {
      over = true;
      releaseStage();
      scene.current?.dispose();
      scene.current = null;
      void publisher.current?.dispose();
      publisher.current = null;
    };
  }, [canvas, room, attempt]);

  useEffect(() => {
    if (!ready) return;
    scene.current?.resize({ width, height }, fps);
    void publisher.current?.setPicture(latest()).catch(() => undefined);
  }, [ready, width, height, fps]);

  useEffect(() => {
    if (!ready || !avatar) return;
    let over = false;
    let well = false;
    void attempt("avatar", async () => {
      await scene.current?.load(avatar);
      await scene.current?.drawn();
      well = true;
    }).then(() => {
      if (!over) setLoaded({ url: avatar, well });
    });
    return () => {
      over = true;
    };
  }, [ready, avatar, attempt]);
  const shown = !ready || !avatar ? "none" : loaded?.url !== avatar ? "loading" : loaded.well ? "shown" : "none";
  const animation = choice.animation?.url ?? null;
  useEffect(() => {
    if (shown === "shown") void attempt("animation", () => scene.current?.animate(animation));
  }, [shown, animation, attempt]);

  const background = typeof choice.background === "string" ? choice.background : choice.background.url;
  useEffect(() => {
    if (!ready) return;
    const colour = background.startsWith("#");
    void attempt("background", () => scene.current?.background(colour ? background : null, colour ? null : background));
  }, [ready, background, attempt]);

  const music = choice.music?.url ?? null;
  useEffect(() => {
    if (ready) void attempt("music", () => publisher.current?.setMusic(music));
  }, [ready, music, attempt]);
  useEffect(() => {
    if (ready) publisher.current?.setVolume(choice.volume);
  }, [ready, choice.volume]);
  useEffect(() => {
    if (ready) void attempt("microphone", () => publisher.current?.setMicrophone(choice.microphone));
  }, [ready, choice.microphone, attempt]);
  useEffect(() => {
    if (!ready || !choice.camera) return;
    let over = false;
    let stream: MediaStream | null = null;
    const end = () => {
      for (const track of stream?.getTracks() ?? []) track.stop();
      scene.current?.setCameraPicture(null);
    };
    void attempt("camera", async () => {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 360 } });
      if (over) return end();
      const video = document.createElement("video");
      video.muted = true;
      video.playsInline = true;
      video.srcObject = stream;
      await video.play();
      if (!over) scene.current?.setCameraPicture(video);
    });
    return () => {
      over = true;
      end();
    };
  }, [ready, choice.camera, attempt]);

  const step = useCallback(async () => {
    await attempt("room", async () => {
      await claimStage(room, false);
      await publisher.current?.start();
      setOnStage(room, true);
    });
    setSoundBlocked(publisher.current?.soundIsBlocked ?? false);
  }, [room, attempt]);
  const leave = useCallback(async () => {
    setOnStage(room, false);
    await publisher.current?.stop();
  }, [room]);

  // A page that was reloaded takes the stage again by itself; so does one that was closed in mid-show and opened again.
  const [before] = useState(() => wasOnStage(room));
  const again = before.here || (before.ever && onAir);
  const tried = useRef(false);
  useEffect(() => {
    if (!ready || !again || tried.current) return;
    tried.current = true;
    // Another tab may have it: that one goes on, and this one looks on.
    void claimStage(room, true).then((free) => (free ? step() : undefined));
  }, [room, ready, again, step]);

  useEffect(() => {
    if (!soundBlocked) return;
    const click = () =>
      void publisher.current?.unblock().then(() => setSoundBlocked(publisher.current?.soundIsBlocked ?? false));
    document.addEventListener("click", click);
    return () => document.removeEventListener("click", click);
  }, [soundBlocked]);

  useEffect(() => {
    if (!ready) return;
    let last = scene.current?.frames ?? 0;
    let poor = 0;
    const timer = setInterval(() => {
      const now = scene.current?.frames ?? 0;
      const drawn = now - last;
      last = now;
      poor = drawn < fps * 0.6 && !document.hidden ? poor + 1 : 0;
      setSlow(poor >= PATIENCE ? drawn : null);
    }, 1000);
    return () => clearInterval(timer);
  }, [ready, fps]);

  return { connection, ready, avatar: shown, troubles, soundBlocked, slow, step, leave };
}
