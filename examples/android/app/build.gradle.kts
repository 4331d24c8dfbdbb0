plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

// The bundle: gradle -Prt3d.bundle=/absolute/path assembleDebug
val bundle = providers.gradleProperty("rt3d.bundle").orNull
    ?: error("name the folder of `rt3d bundle ... --embed --program classify`: -Prt3d.bundle=DIR")

android {
    namespace = "rt3d.example"
    compileSdk = 35
    defaultConfig {
        applicationId = "rt3d.example"
        minSdk = 28
        targetSdk = 35
        versionCode = 1
        versionName = "1"
        ndk { abiFilters += "arm64-v8a" }
        externalNativeBuild { cmake { arguments += "-DRT3D_BUNDLE=$bundle" } }
    }
    externalNativeBuild { cmake { path = file("src/main/cpp/CMakeLists.txt") } }
    androidResources { noCompress += "rgb" }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

val copyLabels = tasks.register<Copy>("copyLabels") {
    from("$bundle/labels.txt")
    into("src/main/assets")
}
tasks.named("preBuild") { dependsOn(copyLabels) }
