/** The 3D preview: avatars, scenes, skies; an animation on an avatar. A VRM that brought no thumbnail gets the one made here. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useEffectEvent, useRef, useState, type KeyboardEvent } from "react";

import { listAssets, storeThumbnail, type AssetOut } from "../../api/library";
import { refreshAssets } from "../../api/lists";
import { Select } from "../../components/field";
import { useToast } from "../../components/toasts";
import { useTexts } from "../../i18n";
import { Scene } from "../../three/scene";
import { FRAMES_BEFORE, THUMBNAIL } from "../../three/thumbnail";
import css from "./model.module.css";

const STEP = Math.PI / 24;

export default function Model({ asset, mayKeep }: { asset: AssetOut; mayKeep: boolean }) {
  const { t } = useTexts();
  const motion = asset.type === "animation";
  const avatars = useQuery({
    queryKey: ["assets", "avatars"],
    queryFn: ({ signal }) => listAssets({ type: "vrm" }, "-created_at", null, signal),
    enabled: motion,
  });
  const [chosen, setChosen] = useState("");
  const known = avatars.data?.items ?? [];
  const avatar = chosen || known[0]?.url;
  if (motion && avatars.isSuccess && !avatar) return <p className="notice">{t.detail.noAvatar}</p>;
  return (
    <div className={css.model}>
      <Shown key={motion ? avatar : asset.url} asset={asset} url={motion ? avatar : asset.url} mayKeep={mayKeep} />
      {motion && known.length ? (
        <Select
          label={t.detail.avatar}
          value={avatar ?? ""}
          options={known.map((one) => [one.url, one.name] as const)}
          onChange={setChosen}
        />
      ) : null}
    </div>
  );
}

type State = "loading" | "shown" | "failed";

/** `url`: what stands there; for an animation that is the avatar which moves. */
function Shown({ asset, url, mayKeep }: { asset: AssetOut; url: string | undefined; mayKeep: boolean }) {
  const { t } = useTexts();
  const client = useQueryClient();
  const tell = useToast();
  const box = useRef<HTMLDivElement>(null);
  const scene = useRef<Scene>(null);
  const [state, setState] = useState<State>("loading");
  const [expressions, setExpressions] = useState<string[]>([]);
  const [active, setActive] = useState("");
  const [animation, setAnimation] = useState("");
  const [making, setMaking] = useState(false);
  const [isVrm, setIsVrm] = useState(false);
  const motion = asset.type === "animation";
  const label = `${t.detail.preview}: ${asset.display_name}. ${t.detail.orbitHint}`;

  const labelOf = useEffectEvent(() => label);
  const tellNoAnimation = useEffectEvent(() => tell(t.detail.animationFailed, true));
  const wantsPicture = useEffectEvent(() => mayKeep && asset.type === "vrm" && !asset.thumbnail);
  const keepPicture = useEffectEvent(async (picture: Blob) => {
    await storeThumbnail(asset.s3_key, picture);
    await refreshAssets(client);
  });

  useEffect(() => {
    const place = box.current;
    if (!place || !url) return;
    let over = false;
    // A canvas keeps its context for life, so each scene brings its own.
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", labelOf());
    canvas.dataset.state = "loading";
    place.prepend(canvas);
    const settle = (now: State) => {
      if (over) return;
      canvas.dataset.state = now;
      setState(now);
    };
    let made: Scene;
    try {
      made = new Scene(canvas);
    } catch {
      settle("failed");
      return () => canvas.remove();
    }
    scene.current = made;
    const show = async () => {
      if (asset.type === "hdr") {
        await made.showSky(url);
        await made.drawn();
        settle("shown");
        return;
      }
      const loaded = await made.load(url);
      if (over) return;
      if (motion) await made.animate(asset.url).catch(() => tellNoAnimation());
      await made.drawn();
      settle("shown");
      if (over || motion) return;
      setExpressions(loaded.expressions);
      setIsVrm(loaded.isVrm);
      if (!loaded.isVrm || !wantsPicture()) return;
      setMaking(true);
      try {
        await made.drawn(FRAMES_BEFORE);
        const picture = await made.picture(THUMBNAIL, THUMBNAIL);
        if (picture) await keepPicture(picture);
      } catch {
        // The next who looks at it makes one.
      } finally {
        if (!over) setMaking(false);
      }
    };
    show().catch(() => settle("failed"));
    return () => {
      over = true;
      scene.current = null;
      made.dispose();
      canvas.remove();
    };
  }, [asset.url, asset.type, url, motion]);
  useEffect(() => {
    box.current?.querySelector("canvas")?.setAttribute("aria-label", label);
  }, [label]);

  const animations = useQuery({
    queryKey: ["assets", "animations"],
    queryFn: ({ signal }) => listAssets({ type: "animation" }, "name", null, signal),
    enabled: isVrm,
  });

  const press = (event: KeyboardEvent) => {
    const shown = scene.current;
    if (!shown || event.ctrlKey || event.altKey || event.metaKey) return;
    const acts: Record<string, () => void> = {
      ArrowLeft: () => shown.turn(-STEP, 0),
      ArrowRight: () => shown.turn(STEP, 0),
      ArrowUp: () => shown.turn(0, STEP),
      ArrowDown: () => shown.turn(0, -STEP),
      "+": () => shown.zoom(0.9),
      "=": () => shown.zoom(0.9),
      "-": () => shown.zoom(1.1),
      "0": () => shown.resetView(),
    };
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  };

  return (
    <>
      {/* oxlint-disable-next-line jsx-a11y/no-static-element-interactions -- the canvas that is put into it has the focus */}
      <div ref={box} className="stage-box" onKeyDown={press}>
        {state === "loading" ? <span className="over">{t.loading}</span> : null}
        {state === "failed" ? <span className="over bad">{t.detail.previewFailed}</span> : null}
        {making ? (
          <span className="over low" role="status">
            {t.detail.makeThumbnail}
          </span>
        ) : null}
        {state === "shown" ? (
          <button type="button" className={`chip ${css.reset}`} onClick={() => scene.current?.resetView()}>
            {t.detail.resetView}
          </button>
        ) : null}
      </div>
      {isVrm ? (
        <Select
          label={t.detail.animation}
          value={animation}
          options={[
            ["", t.detail.noAnimation],
            ...(animations.data?.items ?? []).map((one) => [one.url, one.name] as const),
          ]}
          onChange={(to) => {
            setAnimation(to);
            scene.current?.animate(to || null).catch(() => {
              setAnimation("");
              tell(t.detail.animationFailed, true);
            });
          }}
        />
      ) : null}
      {expressions.length ? (
        <fieldset className={css.expressions}>
          <legend>{t.detail.expressions}</legend>
          {expressions.map((name) => (
            <button
              key={name}
              type="button"
              className="chip"
              aria-pressed={active === name}
              onClick={() => {
                if (active) scene.current?.setExpression(active, 0);
                if (active !== name) scene.current?.setExpression(name, 1);
                setActive(active === name ? "" : name);
              }}
            >
              {name}
            </button>
          ))}
        </fieldset>
      ) : null}
    </>
  );
}
