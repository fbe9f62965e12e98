/** The picture and the sound that go out, and what they are made of. A reload finds all of it as it was. */
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";

import { listAssets, type AssetType } from "../../api/library";
import { Select } from "../../components/field";
import { useTellError } from "../../components/toasts";
import { useTexts } from "../../i18n";
import type { Connection, Publisher } from "../../live/publisher";
import type { Scene } from "../../three/scene";

interface Choice {
  avatar: string;
  animation: string;
  background: string;
  music: string;
  camera: boolean;
  microphone: boolean;
  onStage: boolean;
}

const NOTHING: Choice = { avatar: "", animation: "", background: "#20263a", music: "", camera: false, microphone: false, onStage: false };
const COLOURS = ["#20263a", "#ffffff", "#00b140", "#f2d5dc"];
const SIZE = { width: 1280, height: 720 };
const FPS = 30;

const place = (room: string) => `butai.stage.${room}`;

function kept(room: string): Choice {
  try {
    return { ...NOTHING, ...(JSON.parse(localStorage.getItem(place(room)) ?? "{}") as Partial<Choice>) };
  } catch {
    return NOTHING;
  }
}

export function Outgoing({ room, publish, onAir }: { room: string; publish: number; onAir: boolean }) {
  const { t } = useTexts();
  const tellError = useTellError();
  const canvas = useRef<HTMLCanvasElement>(null);
  const scene = useRef<Scene>(null);
  const publisher = useRef<Publisher>(null);
  const camera = useRef<MediaStream>(null);
  const [choice, setChoice] = useState(() => kept(room));
  const [connection, setConnection] = useState<Connection>("off");
  const [ready, setReady] = useState(false);
  const [blocked, setBlocked] = useState(false);
  const [failed, setFailed] = useState(false);

  const change = (values: Partial<Choice>) =>
    setChoice((now) => {
      const next = { ...now, ...values };
      localStorage.setItem(place(room), JSON.stringify(next));
      return next;
    });

  useEffect(() => {
    let over = false;
    void Promise.all([import("../../three/scene"), import("../../live/publisher")]).then(
      ([{ Scene: Drawn }, { Publisher: Sender }]) => {
        if (over || !canvas.current) return;
        scene.current = new Drawn(canvas.current, SIZE, FPS);
        publisher.current = new Sender(room, canvas.current, FPS, setConnection);
        setReady(true);
      },
    ).catch(() => setFailed(true));
    return () => {
      over = true;
      scene.current?.dispose();
      scene.current = null;
      void publisher.current?.dispose();
      publisher.current = null;
      for (const track of camera.current?.getTracks() ?? []) track.stop();
    };
  }, [room]);

  const avatars = useAssets("vrm");
  const first = avatars[0]?.url;
  const avatar = choice.avatar || first || "";
  useEffect(() => {
    if (!ready || !avatar) return;
    void scene.current
      ?.load(avatar)
      .then(() => scene.current?.animate(choice.animation || null))
      .catch(tellError);
    // The animation has an effect of its own.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [ready, avatar]);
  useEffect(() => {
    if (ready && avatar) scene.current?.animate(choice.animation || null).catch(tellError);
  }, [ready, avatar, choice.animation, tellError]);
  useEffect(() => {
    if (!ready) return;
    const colour = choice.background.startsWith("#");
    scene.current?.background(colour ? choice.background : null, colour ? null : choice.background).catch(tellError);
  }, [ready, choice.background, tellError]);
  useEffect(() => {
    if (ready) publisher.current?.setMusic(choice.music || null).catch(tellError);
  }, [ready, choice.music, tellError]);
  useEffect(() => {
    if (ready) publisher.current?.setMicrophone(choice.microphone).catch(tellError);
  }, [ready, choice.microphone, tellError]);
  useEffect(() => {
    if (!ready) return;
    for (const track of camera.current?.getTracks() ?? []) track.stop();
    camera.current = null;
    scene.current?.setCameraPicture(null);
    if (!choice.camera) return;
    let over = false;
    void navigator.mediaDevices
      .getUserMedia({ video: { width: 640, height: 360 } })
      .then(async (stream) => {
        if (over) return;
        camera.current = stream;
        const video = document.createElement("video");
        video.muted = true;
        video.playsInline = true;
        video.srcObject = stream;
        await video.play();
        if (!over) scene.current?.setCameraPicture(video);
      })
      .catch(tellError);
    return () => {
      over = true;
    };
  }, [ready, choice.camera, tellError]);

  const go = async () => {
    try {
      await publisher.current?.start();
      change({ onStage: true });
      setBlocked(publisher.current?.soundIsBlocked ?? false);
    } catch (error) {
      tellError(error);
    }
  };
  const leave = async () => {
    change({ onStage: false });
    await publisher.current?.stop();
  };
  // "Go live" steps on stage by itself; so does a page that was reloaded in mid-show.
  const again = choice.onStage || onAir;
  const tried = useRef(0);
  useEffect(() => {
    if (!ready || connection !== "off") return;
    if (publish > tried.current || (again && tried.current === 0)) {
      tried.current = Math.max(publish, 1);
      void go();
    }
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [ready, publish, again]);
  useEffect(() => {
    if (!blocked) return;
    const click = () => void publisher.current?.unblock().then(() => setBlocked(publisher.current?.soundIsBlocked ?? false));
    document.addEventListener("click", click);
    return () => document.removeEventListener("click", click);
  }, [blocked]);

  return (
    <section className="outgoing" aria-label={t.stage.preview}>
      <div className="stage-box wide">
        <canvas key={room} ref={canvas} width={SIZE.width} height={SIZE.height} role="img" aria-label={t.stage.preview} data-connection={connection} />
        <span className={connection === "on" ? "over low good" : "over low"}>
          {{ off: t.stage.offStage, connecting: t.stage.connecting, on: t.stage.onStage, reconnecting: t.stage.reconnecting }[connection]}
        </span>
        {blocked ? <span className="over">{t.stage.soundBlocked}</span> : null}
        {failed ? <span className="over bad">{t.detail.previewFailed}</span> : null}
      </div>
      <div className="row">
        {connection === "off" ? (
          <button type="button" disabled={!ready} onClick={() => void go()}>
            {t.stage.toStudio}
          </button>
        ) : (
          <button type="button" onClick={() => void leave()}>
            {t.stage.leave}
          </button>
        )}
        <label className="check">
          <input type="checkbox" checked={choice.camera} onChange={(event) => change({ camera: event.target.checked })} /> {t.stage.camera}
        </label>
        <label className="check">
          <input type="checkbox" checked={choice.microphone} onChange={(event) => change({ microphone: event.target.checked })} />{" "}
          {t.stage.microphone}
        </label>
      </div>
      <div className="choices">
        <AssetSelect label={t.stage.avatar} assets={avatars} value={avatar} onChange={(url) => change({ avatar: url })} />
        <AssetSelect label={t.stage.animation} type="animation" value={choice.animation} onChange={(url) => change({ animation: url })} />
        <BackgroundSelect value={choice.background} onChange={(background) => change({ background })} />
        <AssetSelect label={t.stage.music} type="bgm" value={choice.music} onChange={(url) => change({ music: url })} />
      </div>
    </section>
  );
}

interface Named {
  url: string;
  name: string;
}

function useAssets(type: AssetType): Named[] {
  const found = useQuery({
    queryKey: ["assets", "of", type],
    queryFn: ({ signal }) => listAssets({ type }, "-created_at", null, signal),
  });
  return found.data?.items ?? [];
}

function AssetSelect({
  label,
  type,
  assets,
  value,
  onChange,
}: {
  label: string;
  type?: AssetType;
  assets?: Named[];
  value: string;
  onChange: (url: string) => void;
}) {
  return type ? (
    <TypeSelect label={label} type={type} value={value} onChange={onChange} />
  ) : (
    <Select label={label} value={value} options={(assets ?? []).map((one) => [one.url, one.name] as const)} onChange={onChange} />
  );
}

function TypeSelect({ label, type, value, onChange }: { label: string; type: AssetType; value: string; onChange: (url: string) => void }) {
  const { t } = useTexts();
  const assets = useAssets(type);
  return <Select label={label} value={value} options={[["", t.none], ...assets.map((one) => [one.url, one.name] as const)]} onChange={onChange} />;
}

function BackgroundSelect({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const { t } = useTexts();
  const skies = useAssets("hdr");
  return (
    <Select
      label={t.stage.background}
      value={value}
      options={[
        ...COLOURS.map((colour) => [colour, `${t.stage.plain} ${colour}`] as const),
        ...skies.map((one) => [one.url, one.name] as const),
      ]}
      onChange={onChange}
    />
  );
}
