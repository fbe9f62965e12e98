/**
 * A canvas with an avatar (or any model, or a sky) on it. Used by the library's preview and by the stage, which publishes
 * the canvas. All of three.js is behind this module, which pages load only where 3D is shown.
 */
import { VRMLoaderPlugin, VRMUtils, type VRM } from "@pixiv/three-vrm";
import { createVRMAnimationClip, VRMAnimationLoaderPlugin, type VRMAnimation } from "@pixiv/three-vrm-animation";
import * as THREE from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
import { BVHLoader } from "three/examples/jsm/loaders/BVHLoader.js";
import { EXRLoader } from "three/examples/jsm/loaders/EXRLoader.js";
import { GLTFLoader, type GLTF } from "three/examples/jsm/loaders/GLTFLoader.js";
import { HDRLoader } from "three/examples/jsm/loaders/HDRLoader.js";

import { embeddedOnly } from "./embedded";
import { mixamoClip } from "./mixamo";
import { Pace } from "./pace";

export interface Loaded {
  expressions: string[];
  isVrm: boolean;
}

const BLINK_EACH = 4;

/** What leaves 219/255 of a colour, and adds 16/255 to it. */
const VEIL = { opacity: 36 / 255, grey: 16 / 36 };

export class Scene {
  readonly renderer: THREE.WebGLRenderer;
  private readonly pace: Pace;
  private readonly scene = new THREE.Scene();
  private readonly camera = new THREE.PerspectiveCamera(28, 16 / 9, 0.1, 100);
  private readonly clock = new THREE.Timer();
  private readonly controls: OrbitControls;
  private readonly abort = new AbortController();
  private vrm: VRM | null = null;
  private model: THREE.Object3D | null = null;
  private mixer: THREE.AnimationMixer | null = null;
  private clips: THREE.AnimationClip[] = [];
  private sky: THREE.Texture | null = null;
  private cameraPicture: { mesh: THREE.Mesh; texture: THREE.VideoTexture } | null = null;
  private veil: THREE.Mesh<THREE.PlaneGeometry, THREE.MeshBasicMaterial> | null = null;
  private readonly overlay = new THREE.Scene();
  private readonly overlayCamera = new THREE.OrthographicCamera(0, 16, 9, 0, -1, 1);
  private elapsed = 0;
  private wanted = 0;
  private animated = 0;

  /** `size`: fixed pixels of what is published; without it the canvas is as large as it is shown. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    private size?: { width: number; height: number },
    fps = 30,
    transparent = !size,
  ) {
    this.renderer = new THREE.WebGLRenderer({
      canvas,
      antialias: true,
      alpha: transparent,
      preserveDrawingBuffer: true,
    });
    this.renderer.outputColorSpace = THREE.SRGBColorSpace;
    this.renderer.toneMapping = THREE.NoToneMapping;
    if (size) {
      this.renderer.setSize(size.width, size.height, false);
      this.camera.aspect = size.width / size.height;
      this.camera.updateProjectionMatrix();
    }
    const key = new THREE.DirectionalLight(0xffffff, Math.PI * 0.8);
    key.position.set(1, 2, 3);
    this.scene.add(key, new THREE.AmbientLight(0xffffff, 1.4));
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.screenSpacePanning = true;
    this.look(new THREE.Vector3(0, 1.2, 0), 2.6);
    this.pace = new Pace(this.renderer.getContext() as WebGL2RenderingContext, !transparent, () => this.draw());
    this.pace.beat(fps);
  }

  dispose(): void {
    this.abort.abort();
    this.pace.end();
    this.controls.dispose();
    this.clear();
    this.setCameraPicture(null);
    this.veil?.geometry.dispose();
    this.veil?.material.dispose();
    this.sky?.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }

  /** How many pictures were drawn. */
  get frames(): number {
    return this.pace.frames;
  }

  /** Until so many more have been drawn: see `Pace.drawn`. */
  drawn(count = 1): Promise<void> {
    return this.pace.drawn(count);
  }

  /** Other pixels, and how many pictures in a second. */
  resize(size: { width: number; height: number }, fps: number): void {
    this.pace.beat(fps);
    if (this.size?.width === size.width && this.size.height === size.height) return;
    this.size = size;
    this.renderer.setSize(size.width, size.height, false);
    this.camera.aspect = size.width / size.height;
    this.camera.updateProjectionMatrix();
  }

  /** Puts a VRM or GLB on the stage in place of what was there. Throws what the loader throws. */
  async load(url: string): Promise<Loaded> {
    const mine = ++this.wanted;
    const gltf = await this.gltf(url);
    if (this.abort.signal.aborted || mine !== this.wanted) return { expressions: [], isVrm: false };
    this.clear();
    const vrm = gltf.userData.vrm as VRM | undefined;
    if (vrm) {
      VRMUtils.removeUnnecessaryVertices(vrm.scene);
      VRMUtils.rotateVRM0(vrm);
      vrm.scene.traverse((object) => {
        object.frustumCulled = false;
      });
      this.vrm = vrm;
    }
    const model = vrm?.scene ?? gltf.scene;
    this.model = model;
    this.clips = gltf.animations;
    this.scene.add(model);
    const box = new THREE.Box3().setFromObject(model);
    const size = box.getSize(new THREE.Vector3());
    const centre = box.getCenter(new THREE.Vector3());
    if (vrm && size.y > 0.5) this.look(new THREE.Vector3(centre.x, box.min.y + size.y * 0.74, centre.z), size.y * 1.35);
    else this.look(centre, Math.max(size.x, size.y, size.z, 0.1) * 2.6);
    if (!vrm && this.clips[0]) this.play(this.clips[0]);
    this.rest();
    return {
      expressions: vrm?.expressionManager?.expressions.map((one) => one.expressionName) ?? [],
      isVrm: Boolean(vrm),
    };
  }

  /** Plays a VRMA, FBX or BVH on the avatar; null lets it stand. */
  async animate(url: string | null): Promise<void> {
    const mine = ++this.animated;
    const clip = url ? await this.clipOf(url) : null;
    if (mine !== this.animated) return;
    this.stopClip();
    if (clip) this.play(clip);
    else this.rest();
  }

  /** As if dragged: around the model, in radians. */
  turn(sideways: number, upwards: number): void {
    const from = new THREE.Spherical().setFromVector3(this.camera.position.clone().sub(this.controls.target));
    from.theta += sideways;
    from.phi -= upwards;
    this.camera.position.setFromSpherical(from.makeSafe()).add(this.controls.target);
    this.controls.update();
  }

  /** Nearer (below 1) or farther. */
  zoom(factor: number): void {
    this.camera.position.sub(this.controls.target).multiplyScalar(factor).add(this.controls.target);
    this.controls.update();
  }

  /** Where one looked from when the model was put there. */
  resetView(): void {
    this.controls.reset();
  }

  setExpression(name: string, weight: number): void {
    this.vrm?.expressionManager?.setValue(name, weight);
  }

  /** A plain colour, or a panorama (HDR, EXR) around the stage. */
  async background(colour: string | null, sky: string | null): Promise<void> {
    const texture = sky ? await this.panorama(sky) : null;
    if (this.abort.signal.aborted) return;
    this.sky?.dispose();
    this.sky = texture;
    this.scene.environment = texture;
    // The stage's own lights stay on: all of the sky's beside them would bleach whoever stands there.
    this.scene.environmentIntensity = 0.4;
    this.scene.background = texture ?? (colour ? new THREE.Color(colour) : null);
    this.renderer.toneMapping = texture ? THREE.NeutralToneMapping : THREE.NoToneMapping;
  }

  /** A sphere that shows a sky as light does. */
  async showSky(url: string): Promise<void> {
    await this.background(null, url);
    this.scene.environmentIntensity = 1;
    const ball = new THREE.Mesh(
      new THREE.SphereGeometry(0.5, 64, 32),
      new THREE.MeshStandardMaterial({ metalness: 1, roughness: 0.08 }),
    );
    this.clear();
    this.model = ball;
    this.scene.add(ball);
    this.look(new THREE.Vector3(0, 0, 0), 2.2);
  }

  /** The host's camera, small in a corner; null takes it away. */
  setCameraPicture(video: HTMLVideoElement | null): void {
    if (this.cameraPicture) {
      this.overlay.remove(this.cameraPicture.mesh);
      this.cameraPicture.texture.dispose();
      this.cameraPicture.mesh.geometry.dispose();
      (this.cameraPicture.mesh.material as THREE.Material).dispose();
      this.cameraPicture = null;
    }
    if (!video) return;
    const texture = new THREE.VideoTexture(video);
    texture.colorSpace = THREE.SRGBColorSpace;
    const mesh = new THREE.Mesh(
      new THREE.PlaneGeometry(4, 2.25),
      new THREE.MeshBasicMaterial({ map: texture, toneMapped: false }),
    );
    mesh.position.set(16 - 2.3, 1.425, 0);
    this.overlay.add(mesh);
    this.cameraPicture = { mesh, texture };
  }

  /** What is shown now, as PNG, `width` by `height`. */
  async picture(width: number, height: number): Promise<Blob | null> {
    this.draw();
    const small = document.createElement("canvas");
    small.width = width;
    small.height = height;
    const { width: w, height: h } = this.canvas;
    const side = Math.min(w / width, h / height);
    const context = small.getContext("2d");
    context?.drawImage(
      this.canvas,
      (w - width * side) / 2,
      (h - height * side) / 2,
      width * side,
      height * side,
      0,
      0,
      width,
      height,
    );
    return new Promise((resolve) => small.toBlob(resolve, "image/png"));
  }

  /**
   * For a browser that sends all values from 0 to 255 where receivers expect 16 to 235 (`live/range`): everything is drawn
   * in that range, under a veil of grey. On the page itself the canvas looks as before.
   */
  compress(): void {
    const grey = new THREE.Color().setRGB(VEIL.grey, VEIL.grey, VEIL.grey, THREE.SRGBColorSpace);
    const material = new THREE.MeshBasicMaterial({
      color: grey,
      opacity: VEIL.opacity,
      transparent: true,
      depthTest: false,
      toneMapped: false,
    });
    this.veil = new THREE.Mesh(new THREE.PlaneGeometry(16, 9), material);
    this.veil.position.set(8, 4.5, 0);
    this.veil.renderOrder = 1;
    this.overlay.add(this.veil);
    this.canvas.style.filter = `contrast(${255 / 219})`;
  }

  private draw(): void {
    if (this.abort.signal.aborted) return;
    if (!this.size) this.fit();
    this.clock.update();
    const passed = Math.min(this.clock.getDelta(), 0.1);
    this.elapsed += passed;
    this.controls.update();
    this.mixer?.update(passed);
    if (this.vrm) {
      this.breathe();
      this.vrm.update(passed);
    }
    this.renderer.autoClear = true;
    this.renderer.render(this.scene, this.camera);
    if (this.cameraPicture || this.veil) {
      this.renderer.autoClear = false;
      this.renderer.render(this.overlay, this.overlayCamera);
    }
    this.pace.did();
  }

  private fit(): void {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = Math.min(devicePixelRatio, 2);
    if (
      !width ||
      !height ||
      (this.canvas.width === Math.floor(width * ratio) && this.canvas.height === Math.floor(height * ratio))
    )
      return;
    this.renderer.setPixelRatio(ratio);
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
  }

  /** A model that stands still looks broken: it blinks, and breathes. */
  private breathe(): void {
    const phase = this.elapsed % BLINK_EACH;
    this.vrm?.expressionManager?.setValue("blink", phase < 0.16 ? Math.sin((phase / 0.16) * Math.PI) : 0);
    if (!this.mixer) {
      const chest =
        this.vrm?.humanoid.getNormalizedBoneNode("chest") ?? this.vrm?.humanoid.getNormalizedBoneNode("spine");
      if (chest) chest.rotation.x = Math.sin(this.elapsed * 1.6) * 0.02;
    }
  }

  /** Arms down, where the model has arms. */
  private rest(): void {
    this.vrm?.humanoid.resetNormalizedPose();
    const left = this.vrm?.humanoid.getNormalizedBoneNode("leftUpperArm");
    const right = this.vrm?.humanoid.getNormalizedBoneNode("rightUpperArm");
    // A VRM 0.x looks the other way, so its left is where another's right is.
    const down = this.vrm?.meta.metaVersion === "0" ? 1.2 : -1.2;
    if (left) left.rotation.z = down;
    if (right) right.rotation.z = -down;
  }

  private play(clip: THREE.AnimationClip): void {
    if (!this.model) return;
    this.mixer = new THREE.AnimationMixer(this.model);
    this.mixer.clipAction(clip).play();
  }

  private stopClip(): void {
    this.mixer?.stopAllAction();
    this.mixer = null;
  }

  private look(at: THREE.Vector3, distance: number): void {
    this.controls.target.copy(at);
    this.camera.position.set(at.x, at.y + distance * 0.02, at.z + distance);
    this.camera.near = distance / 100;
    this.camera.far = distance * 100;
    this.camera.updateProjectionMatrix();
    this.controls.update();
    this.controls.saveState();
  }

  private clear(): void {
    this.stopClip();
    if (this.model) {
      this.scene.remove(this.model);
      VRMUtils.deepDispose(this.model);
    }
    this.model = null;
    this.vrm = null;
    this.clips = [];
  }

  private async gltf(url: string): Promise<GLTF> {
    const loader = new GLTFLoader(embeddedOnly());
    loader.register((parser) => new VRMLoaderPlugin(parser));
    loader.register((parser) => new VRMAnimationLoaderPlugin(parser));
    return loader.parseAsync(await this.bytesOf(url), "");
  }

  private async clipOf(url: string): Promise<THREE.AnimationClip | null> {
    const vrm = this.vrm;
    if (!vrm) return null;
    const name = decodeURIComponent(url).toLowerCase();
    if (name.endsWith(".vrma")) {
      const gltf = await this.gltf(url);
      const found = (gltf.userData.vrmAnimations as VRMAnimation[] | undefined)?.[0];
      return found ? createVRMAnimationClip(found, vrm) : null;
    }
    const body = await this.bytesOf(url);
    if (name.endsWith(".bvh")) {
      const parsed = new BVHLoader().parse(new TextDecoder().decode(body));
      return mixamoClip(parsed.skeleton.bones[0] ?? null, parsed.clip, vrm);
    }
    const { FBXLoader } = await import("three/examples/jsm/loaders/FBXLoader.js");
    const group = new FBXLoader(embeddedOnly()).parse(body, "");
    return mixamoClip(group, group.animations[0] ?? null, vrm);
  }

  private async panorama(url: string): Promise<THREE.Texture> {
    const exr = decodeURIComponent(url).toLowerCase().endsWith(".exr");
    const body = await this.bytesOf(url);
    const blob = URL.createObjectURL(new Blob([body]));
    try {
      const texture = await (exr ? new EXRLoader().loadAsync(blob) : new HDRLoader().loadAsync(blob));
      texture.mapping = THREE.EquirectangularReflectionMapping;
      return texture;
    } finally {
      URL.revokeObjectURL(blob);
    }
  }

  private async bytesOf(url: string): Promise<ArrayBuffer> {
    const answer = await fetch(url, { credentials: "same-origin", signal: this.abort.signal });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    return answer.arrayBuffer();
  }
}
