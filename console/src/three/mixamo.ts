/** Animations of other skeletons (Mixamo's FBX, BVH by the same bone names) carried over to a VRM's bones. */
import type { VRM, VRMHumanBoneName } from "@pixiv/three-vrm";
import * as THREE from "three";

/** Names without their prefixes, in lower case: Mixamo's, and those of VRM itself. */
const BONES: Record<string, VRMHumanBoneName> = {
  hips: "hips",
  spine: "spine",
  spine1: "chest",
  chest: "chest",
  spine2: "upperChest",
  upperchest: "upperChest",
  neck: "neck",
  head: "head",
};
for (const side of ["left", "right"] as const) {
  const pairs: [string, string][] = [
    ["shoulder", "Shoulder"],
    ["arm", "UpperArm"],
    ["upperarm", "UpperArm"],
    ["forearm", "LowerArm"],
    ["lowerarm", "LowerArm"],
    ["hand", "Hand"],
    ["upleg", "UpperLeg"],
    ["upperleg", "UpperLeg"],
    ["leg", "LowerLeg"],
    ["lowerleg", "LowerLeg"],
    ["foot", "Foot"],
    ["toebase", "Toes"],
    ["toes", "Toes"],
  ];
  for (const [from, to] of pairs) BONES[side + from] = `${side}${to}` as VRMHumanBoneName;
  for (const [finger, own] of [
    ["thumb", "Thumb"],
    ["index", "Index"],
    ["middle", "Middle"],
    ["ring", "Ring"],
    ["pinky", "Little"],
  ] as const)
    ["Proximal", "Intermediate", "Distal"].forEach((joint, place) => {
      const name = own === "Thumb" ? (["Metacarpal", "Proximal", "Distal"][place] ?? joint) : joint;
      BONES[`${side}hand${finger}${place + 1}`] = `${side}${own}${name}` as VRMHumanBoneName;
    });
}

/** The clip on the avatar's bones, or null when no bone of it is known. */
export function mixamoClip(
  root: THREE.Object3D | null,
  clip: THREE.AnimationClip | null,
  vrm: VRM,
): THREE.AnimationClip | null {
  if (!root || !clip) return null;
  root.updateWorldMatrix(true, true);
  const tracks: THREE.KeyframeTrack[] = [];
  const rest = new THREE.Quaternion();
  const parent = new THREE.Quaternion();
  const turned = new THREE.Quaternion();
  const vrm0 = vrm.meta.metaVersion === "0";
  for (const track of clip.tracks) {
    const [object = "", property] = track.name.replace(/^\.bones\[(.+)\]/, "$1").split(".");
    const bone = BONES[object.replace(/^mixamorig:?\d*:?/i, "").toLowerCase()];
    const own = bone ? vrm.humanoid.getNormalizedBoneNode(bone) : null;
    const source = root.getObjectByName(object);
    if (!own || !source || property !== "quaternion") continue;
    source.getWorldQuaternion(rest).invert();
    if (source.parent) source.parent.getWorldQuaternion(parent);
    else parent.identity();
    const values = Float32Array.from(track.values);
    for (let at = 0; at < values.length; at += 4) {
      turned.fromArray(values, at).premultiply(parent).multiply(rest).toArray(values, at);
      // A VRM 0.x looks the other way.
      if (vrm0) {
        values[at] = -(values[at] ?? 0);
        values[at + 2] = -(values[at + 2] ?? 0);
      }
    }
    tracks.push(
      new THREE.QuaternionKeyframeTrack(`${own.name}.quaternion`, Array.from(track.times), Array.from(values)),
    );
  }
  return tracks.length ? new THREE.AnimationClip(clip.name, clip.duration, tracks) : null;
}
